"""What to change about a placement that does not fit: the cheapest changes first, each with its own numbers.

Every change is asked of the engine anew. Those that fit are offered; those that look obvious and do not help are named
with the reason. Cheap is what costs neither quality nor devices: ``CHANGES`` has the order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from kvplan.core.engine import Engine
from kvplan.core.errors import KvplanError
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.model import Model, WeightsOnDisk
from kvplan.core.search import last_true
from kvplan.core.units import KIB, cdiv, format_bytes, format_tokens
from kvplan.core.weights import get_weight_format
from kvplan.planning.fit import fit_model
from kvplan.planning.fit_check import FitCheck, check_fit
from kvplan.planning.next_steps import SMALLER_CACHES
from kvplan.planning.request import RequestWords, build_choice
from kvplan.planning.suggest_placement import placement_changes
from kvplan.planning.suggestion import Suggestion as Suggestion
from kvplan.planning.suggestion import offer, refuse

MOST_OFFERED, MOST_REFUSED = 6, 3
"""Longer lists are not read."""

LARGEST_UTILIZATIONS = {"vllm": Fraction(95, 100)}
"""What is reasonable to ask for: the rest is for CUDA graphs and fragments, which vLLM keeps outside its share."""

LEAST_BATCH_TOKENS = 2048
"""Below it prefills slow down; vLLM's own default on the smallest devices."""

SMALLER_WEIGHTS = {"llamacpp": ("q8_0", "q4_k_m"), "ollama": ("q8_0", "q4_k_m")}
_SMALLER_WEIGHTS = ("fp8", "int4")
"""Weight formats in 8 and 4 bits, for the engines that read GGUF and for the rest."""

_GIB, _GB = 1 << 30, 10**9
OFFLOADS: dict[str, tuple[str, int, bool]] = {
    "vllm": ("--kv-offloading-size", _GIB, True),  # config/cache.py (0.25 to 0.33): summed over the ranks
    "sglang": ("--enable-hierarchical-cache --hicache-size", _GB, False),  # 0.5.23 server_args.py: of each rank
}
"""Engines that keep caches in host memory: the option, its unit in bytes, and whether it counts all ranks together."""


def suggest(result: FitResult, engine: Engine) -> tuple[Suggestion, ...]:
    """Changes after which it fits, then changes that do not help, with the reason; nothing where it fits already."""
    if result.fits:
        return ()
    offered: list[Suggestion] = []
    refused: list[Suggestion] = []
    for change in CHANGES:
        for suggestion in change(result, engine):
            (offered if suggestion.fits else refused).append(suggestion)
        if len(offered) >= MOST_OFFERED:
            break
    if not any(_holds_all(entry, result) for entry in offered):
        offered += _smaller_cache_elsewhere(result, engine)
    if not offered:
        offered += _fewer_requests_elsewhere(result, engine)
    return (*offered[:MOST_OFFERED], *refused[:MOST_REFUSED])


def _holds_all(suggestion: Suggestion, result: FitResult) -> bool:
    """Whether as many and as long requests as were asked for are held."""
    if suggestion.result is None:
        return False
    after, before = suggestion.result.request.size, result.request.size
    return after.context_tokens == before.context_tokens and after.concurrency == before.concurrency


def _shorter_limit(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """The engine refuses to start for its longest request, although the asked ones are shorter."""
    settings, size = result.request.size.settings, result.request.size
    longest = result.max_context_tokens
    if settings.max_model_len is None or not size.context_tokens <= longest < settings.max_model_len:
        return
    length = max(size.context_tokens, longest - longest % KIB)
    request = _resized(result.request, settings=replace(settings, max_model_len=length))
    yield from offer(result, engine, f"--max-model-len {length}", "a shorter longest request", request)


def fewer_requests(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """The largest number that fits."""
    if result.missing_bytes:
        words = "weights and overhead alone do not fit, so fewer or shorter requests do not help"
        yield refuse("--concurrency 1", words)
        return
    most = result.max_concurrency
    if most:
        request = _resized(result.request, concurrency=most)
        yield from offer(result, engine, f"--concurrency {most}", "fewer requests at once", request)


def _fewer_tokens(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """The largest context for all asked requests, in whole 1k or, below that, blocks."""
    if result.missing_bytes:
        return
    for unit in (KIB, result.needed.block_tokens or 1):
        tokens = _longest_context(result, engine, unit)
        if tokens:
            option = f"--ctx {format_tokens(tokens).replace(',', '')}"
            yield from offer(result, engine, option, "shorter requests", _shorter(result, tokens))
            return


def _longest_context(result: FitResult, engine: Engine, unit: int) -> int:
    """In whole units; 0 where not even one fits."""

    def holds(units: int) -> bool:
        """Whether the asked requests fit with so many units of context."""
        return _fits(result, engine, _shorter(result, units * unit))

    return unit * (last_true(holds, cdiv(result.request.size.context_tokens, unit)) or 0)


def _shorter(result: FitResult, tokens: int) -> FitRequest:
    """With so many tokens, at most those that were asked for."""
    return _resized(result.request, context_tokens=min(tokens, result.request.size.context_tokens))


def larger_share(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """The least share of the device, in hundredths, that suffices."""
    highest = LARGEST_UTILIZATIONS.get(engine.name)
    budget = result.budgets[0]
    percents = range(budget.requested_bytes * 100 // budget.memory_bytes + 1, int((highest or 0) * 100) + 1)

    def request(percent: int) -> FitRequest:
        """The same with this share of the memory."""
        return replace(result.request, memory_utilization=Fraction(percent, 100))

    first = bisect_left(percents, True, key=lambda percent: _fits(result, engine, request(percent)))
    if first < len(percents):
        option = f"--gpu-memory-utilization {percents[first] / 100:.2f}"
        yield from offer(result, engine, option, "a larger share of the device", request(percents[first]))


def _smaller_cache(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """8 bits, and 4 bits where those do not suffice; the first of the engine's own words that stores less."""
    if result.missing_bytes:
        return
    for words, names in SMALLER_CACHES:
        for name in names:
            request = _with_dtype(result, engine, name)
            check = request and _check(result, engine, request)
            if not request or not check or check.needed_bytes >= result.kv_bytes_needed:
                continue
            option = f"--kv-dtype {name}"
            if check.fits:
                yield from offer(result, engine, option, f"a cache {words}", request)
                return
            yield refuse(option, f"not enough: {check.problem}")
            break


def _smaller_cache_elsewhere(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """An 8-bit cache and another placement together, where neither alone holds everything."""
    words, names = SMALLER_CACHES[0]
    for name in names:
        request = _with_dtype(result, engine, name)
        if request is None:
            continue
        smaller = fit_model(result.model, request, engine)
        if smaller.kv_bytes_needed >= result.kv_bytes_needed:
            continue
        for entry in placement_changes(smaller, engine):
            if entry.fits:
                option = f"--kv-dtype {name} {entry.option}"
                yield replace(entry, option=option, words=f"a cache {words} and {entry.words}")
        return


def _fewer_requests_elsewhere(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """The placements that hold at least one request, with as many as they hold."""
    single = fit_model(result.model, _resized(result.request, concurrency=1), engine)
    for entry in placement_changes(single, engine):
        if entry.result is not None:
            most = min(entry.result.max_concurrency, result.request.size.concurrency)
            option, words = f"--concurrency {most} {entry.option}", f"fewer requests at once and {entry.words}"
            yield from offer(result, engine, option, words, _resized(entry.result.request, concurrency=most))


def _with_dtype(result: FitResult, engine: Engine, name: str) -> FitRequest | None:
    """The request with another cache dtype; what the user keeps native stays so."""
    size = result.request.size
    asked = RequestWords(kv_dtype=name, include_draft=size.include_draft, settings=size.settings)
    try:
        choice = build_choice(result.model, asked, engine)
    except KvplanError:
        return None
    kept = size.choice.kv_format
    kv_format = replace(choice.kv_format, native_layers=kept.native_layers, native_windows=kept.native_windows)
    return _resized(result.request, choice=replace(size.choice, kv_format=kv_format))


def _smaller_batch(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """Fewer tokens in each step: smaller activations, and fewer tokens in flight beyond a window."""
    tokens, size = result.max_num_batched_tokens or 0, result.request.size
    least = max(LEAST_BATCH_TOKENS, size.settings.max_num_seqs or 0)
    while tokens // 2 >= least:
        tokens //= 2
        request = _resized(result.request, settings=replace(size.settings, max_num_batched_tokens=tokens))
        found = offer(result, engine, f"--max-num-batched-tokens {tokens}", "smaller steps of prefill", request)
        if found:
            yield from found
            return


def _smaller_weights(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """8 bits, and 4 bits where those do not suffice, if weights are most of what is taken."""
    taken = max(budget.weights.size_bytes for budget in result.budgets)
    if not result.missing_bytes and 2 * taken < max(budget.requested_bytes for budget in result.budgets):
        return
    for name, bits in zip(SMALLER_WEIGHTS.get(engine.name, _SMALLER_WEIGHTS), ("8", "4")):
        model = replace(result.model, weights=WeightsOnDisk(weight_format=name))
        request = replace(result.request, weight_format=get_weight_format(name))
        check = _check(result, engine, request, model)
        if check is None or check.weights_bytes > taken * 9 // 10:
            continue
        if check.fits:
            yield from offer(result, engine, f"--weights {name}", f"weights in {bits} bits", request, model)
            return
        if result.missing_bytes:
            yield refuse(f"--weights {name}", f"not enough: {check.problem}")


def offload(result: FitResult, engine: Engine) -> Iterator[Suggestion]:
    """The caches of the requests that wait, in host memory."""
    if engine.name not in OFFLOADS or not result.starts or not result.max_concurrency_at_context:
        return
    flag, unit, all_ranks = OFFLOADS[engine.name]
    size = result.request.size
    held = result.max_concurrency_at_context
    waiting = size.parallel.sequences_per_replica(size.concurrency)[0] - held
    ranks = [waiting * rank.sequence_bytes for rank in result.needed.stages]
    replica_bytes = size.parallel.tp * sum(ranks)
    amount = cdiv(replica_bytes if all_ranks else max(ranks), unit)
    host_bytes = replica_bytes * size.parallel.dp
    request = _resized(result.request, concurrency=held * size.parallel.dp)
    words = f"caches of waiting requests move to the host's memory ({format_bytes(host_bytes)})"
    found = offer(result, engine, f"{flag} {amount}", words, request)
    yield from (replace(entry, host_bytes=host_bytes) for entry in found)


CHANGES: tuple[Callable[[FitResult, Engine], Iterator[Suggestion]], ...] = (
    _shorter_limit,
    fewer_requests,
    _fewer_tokens,
    larger_share,
    _smaller_cache,
    _smaller_batch,
    placement_changes,
    _smaller_weights,
    offload,
)
"""Cheapest first."""


def _resized(request: FitRequest, **changes: Any) -> FitRequest:
    return replace(request, size=replace(request.size, **changes))


def _check(result: FitResult, engine: Engine, request: FitRequest, model: Model | None = None) -> FitCheck | None:
    try:
        return check_fit(model or result.model, request, engine)
    except KvplanError:
        return None


def _fits(result: FitResult, engine: Engine, request: FitRequest) -> bool:
    check = _check(result, engine, request)
    return check is not None and check.fits
