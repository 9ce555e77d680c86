"""Other placements for what does not fit: more ranks, replicas that share the requests, pipeline stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from kvplan.core.engine import Engine
from kvplan.core.errors import KvplanError
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.parallel import Parallel
from kvplan.planning.fit_check import check_fit
from kvplan.planning.replication import Spread, has_experts, replication_words, unreplicated_ranks
from kvplan.planning.suggestion import Suggestion, offer, refuse

NODE_DEVICES = 8
"""Devices of one node; tensor parallelism does not reach beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A way to use devices, in words."""

    words: str
    spread: Spread

    @property
    def num_devices(self) -> int:
        """Devices that it takes."""
        parallel = self.spread.parallel
        return parallel.tp * parallel.pp * parallel.dp


def placement_changes(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """What fits on the same devices, then what fits on the fewest more; and why more tensor parallelism does not."""
    ranks = tuple(_more_ranks(result))
    split = _first(result, engine, ranks)
    found = [*split, *_first(result, engine, _shared_contexts(result)), *_first(result, engine, _replicas(result))]
    stages = _first(result, engine, _more_stages(result))
    found += [entry for entry in stages if not split or _devices(entry) < _devices(split[0])]
    sizes = sorted({_devices(entry) for entry in found} - {result.request.num_devices})
    for size in (result.request.num_devices, *sizes[:1]):
        yield from (entry for entry in found if _devices(entry) == size)
    if not split:
        yield from _no_more_ranks(result, engine, ranks)


def _devices(suggestion: Suggestion) -> int:
    return suggestion.result.request.num_devices if suggestion.result else 0


def _more_ranks(result: FitResult) -> Iterator[Placement]:
    parallel = result.request.size.parallel
    tp = parallel.tp * 2
    while tp <= NODE_DEVICES:
        words = "more tensor parallelism"
        copied = replication_words(result.model.architecture, tp // 2)
        if copied is not None:
            words += f" (weights shrink, the cache does not: {copied})"
        yield _placement(result, words, replace(parallel, tp=tp))
        tp *= 2


def _shared_contexts(result: FitResult) -> Iterator[Placement]:
    """Ranks that would hold copies hold other tokens instead, on the same devices."""
    parallel = result.request.size.parallel
    rest = parallel.tp // unreplicated_ranks(result.model.architecture, parallel.tp)
    if parallel.dcp < rest:
        yield _placement(result, "each rank holds other tokens in place of copies", replace(parallel, dcp=rest))


def _replicas(result: FitResult) -> Iterator[Placement]:
    """DP attention, where tensor parallelism copies the cache: replicas with requests of their own."""
    parallel, architecture = result.request.size.parallel, result.model.architecture
    for devices in _doubled(parallel.tp * parallel.dp, parallel.pp):
        tp = unreplicated_ranks(architecture, devices)
        if devices // tp > parallel.dp:
            spread = replace(parallel, tp=tp, dp=devices // tp, dcp=1)
            yield _placement(result, "requests spread over replicas (DP attention)", spread, has_experts(architecture))


def _more_stages(result: FitResult) -> Iterator[Placement]:
    """Pipeline stages in place of ranks that hold copies, then more stages."""
    parallel = result.request.size.parallel
    words = "pipeline stages, each with the cache of its own layers"
    alone = unreplicated_ranks(result.model.architecture, parallel.tp)
    if alone < parallel.tp:
        yield _placement(result, words, replace(parallel, tp=alone, pp=parallel.pp * (parallel.tp // alone), dcp=1))
    for pp in _doubled(parallel.pp, parallel.tp * parallel.dp):
        if pp > parallel.pp:
            yield _placement(result, words, replace(parallel, pp=pp))


def _doubled(size: int, others: int) -> Iterator[int]:
    """A size and its doubles, on one node or, from a full one, on two."""
    most = max(NODE_DEVICES, 2 * size * others)
    while size * others <= most:
        yield size
        size *= 2


def _placement(result: FitResult, words: str, parallel: Parallel, experts: bool = False) -> Placement:
    spread = Spread(parallel=parallel, expert_parallel=experts or result.request.expert_parallel)
    return Placement(words=words, spread=spread)


def _first(result: FitResult, engine: Engine, placements: Iterable[Placement]) -> tuple[Suggestion, ...]:
    for placement in placements:
        request = _request(result, placement.spread)
        found = offer(result, engine, _option(result, placement), placement.words, request)
        if found:
            return found
    return ()


def _request(result: FitResult, spread: Spread) -> FitRequest:
    size = replace(result.request.size, parallel=spread.parallel)
    return replace(result.request, size=size, expert_parallel=spread.expert_parallel)


def _option(result: FitResult, placement: Placement) -> str:
    """The sizes that differ, or that a stated count would else give to another kind of parallelism."""
    before, after = result.request.size.parallel, placement.spread.parallel
    words = [f"--count {placement.num_devices}"] if placement.num_devices != result.request.num_devices else []
    for name in ("tp", "pp", "dp", "dcp"):
        size = getattr(after, name)
        if size != 1 or size != getattr(before, name) or name == "tp":
            words.append(f"--{name} {size}")
    if placement.spread.expert_parallel and not result.request.expert_parallel:
        words.append("--enable-expert-parallel")
    return " ".join(words)


def _no_more_ranks(result: FitResult, engine: Engine, tried: Sequence[Placement]) -> Iterator[Suggestion]:
    """Why more ranks are no way out: the cache is copied, or the most ranks of a node hold too little."""
    parallel = result.request.size.parallel
    copied = replication_words(result.model.architecture, parallel.tp)
    doubled = _placement(result, "", replace(parallel, tp=parallel.tp * 2))
    for placement in (*reversed(tried), doubled):
        problem = _problem(result, engine, placement)
        if problem is None:
            continue
        if copied is not None and not result.missing_bytes:
            problem = f"the cache of a device does not shrink: {copied}"
        yield refuse(_option(result, placement), problem)
        return


def _problem(result: FitResult, engine: Engine, placement: Placement) -> str | None:
    """Why a placement does not fit; None where it fits, or the engine refuses it."""
    try:
        return check_fit(result.model, _request(result, placement.spread), engine).problem
    except KvplanError:
        return None
