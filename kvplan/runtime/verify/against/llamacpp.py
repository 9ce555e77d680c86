"""llama.cpp, started by llama-cpp-python on a GGUF skeleton: all of its caches, and each side of each.

All together exactly, from its own account of its buffers, in the release whose layout of it is known; the sides as it
logs them, to hundredths of a MiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from kvplan.core.engine import EngineRequest, EngineSettings
from kvplan.core.errors import UnsupportedError
from kvplan.core.geometry import place_layers
from kvplan.core.model import Model
from kvplan.core.request import SizeRequest, SizeResult
from kvplan.core.units import MIB
from kvplan.core.verification import Check
from kvplan.engines.llamacpp import ENGINE as LLAMACPP
from kvplan.engines.llamacpp import LlamaCpp
from kvplan.engines.llamacpp.cells import FULL, RECURRENT, WINDOW, Slots
from kvplan.engines.llamacpp.plan import Device, place_devices
from kvplan.engines.llamacpp.report import Cache, read_caches
from kvplan.planning.request import RequestWords, build_choice
from kvplan.planning.size import engine_request, size_model, split_stages
from kvplan.runtime.verify.device import Progress
from kvplan.runtime.verify.engine_process import Answer, Question, ask
from kvplan.runtime.verify.engine_room import refuse_ranks, refuse_size
from kvplan.runtime.verify.engine_skeleton import read_published
from kvplan.runtime.verify.findings import Findings, layer_words
from kvplan.runtime.verify.gguf_skeleton import GgufSkeleton, gguf_skeleton
from kvplan.runtime.verify.host_memory import host_memory

VARIABLE = "KVPLAN_LLAMACPP_PYTHON"
GROUP = "engine"
READ_FROM = "0.3.36"
"""The llama-cpp-python that holds the llama.cpp of kvplan's rules."""

_SCRIPT = "start_llamacpp.py"
_SECONDS = 300.0
_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1"}  # an assertion would start a debugger
_ROUNDING_BYTES = MIB // 200 + 1
"""llama.cpp logs hundredths of a MiB."""

_LOGGED = "llama.cpp's caches, as it logs them"
_TYPE_NAMES = {"fp16": "f16", "fp32": "f32"}
_SIDES = {"K": "keys", "V": "values", "R": "convolutions", "S": "states"}
_CACHES = (FULL, WINDOW, RECURRENT)
"""In which llama.cpp makes and logs them."""

_LINE = re.compile(
    r"(?P<who>llama_\w+): .*?\( *(?P<cells>\d+) cells, +(?P<layers>\d+) layers, .*?\), "
    r"(?P<one>[KR]) \(\w+\): +(?P<first>[\d.]+) MiB, (?P<two>[VS]) \(\w+\): +(?P<second>[\d.]+) MiB"
)

Sides = dict[str, int]
"""Bytes by side: K and V, or R and S."""


@dataclass(frozen=True, kw_only=True)
class _Start:
    """One start and what is predicted for it; ``model`` has the layers that the spec claims.

    ``reason`` says why the skeleton has those layers too, where it has.
    """

    skeleton: GgufSkeleton
    model: Model
    request: SizeRequest
    engine: LlamaCpp
    reason: str = ""

    @property
    def result(self) -> SizeResult:
        """kvplan's prediction."""
        return size_model(self.model, self.request, self.engine)

    @property
    def slots(self) -> Slots:
        """The context."""
        sequences = self.request.concurrency
        context = sequences * self.request.context_tokens
        engine = self.engine
        return Slots(
            sequences=sequences,
            context_tokens=context,
            unified=engine.unified,
            swa_full=engine.swa_full,
            ubatch=engine.ubatch,
        )

    def devices(self) -> tuple[Device, ...]:
        """The layers as llama.cpp places them: on one device."""
        return place_devices(self._asked(), self.engine.has_flash_attention)

    def _asked(self) -> EngineRequest:
        layers = self.model.architecture.layers
        stages = split_stages(place_layers(layers, self.request.choice.kv_format), 1, len(layers))
        return engine_request(self.model, self.request, stages)


def verify(result: SizeResult, python: str, progress: Progress) -> Findings:
    """Start llama.cpp for the request of ``result``. Raises KvplanError as ``verify_engine`` says."""
    progress("looking for llama.cpp")
    versions = _versions(python)
    start = _prepare(result)
    what = f"a skeleton of {start.skeleton.num_layers} layers"
    refuse_size(what, start.result.allocated_bytes, host_memory()[1], start.request.context_tokens)
    progress(f"starting llama.cpp ({start.skeleton.arch})")
    answer = _ask(_question(start), python)
    problem = answer.body.get("refused") or answer.body.get("error")
    if problem:
        words = " ".join(str(problem).split())[:400]
        raise UnsupportedError(f"llama.cpp does not start on a skeleton of {result.model.name}: {words}")
    checks = (*_account_check(start, answer.body.get("context_bytes")), *_checks(start, answer.body["lines"]))
    return Findings(checks=checks, notes=tuple(_notes(start, versions)))


def _versions(python: str) -> Mapping[str, Any]:
    """The versions that are installed. Raises UnsupportedError with the command that installs what is missing."""
    found = _ask({}, python).body
    names = {"llama_cpp_python": "llama-cpp-python", "gguf": "gguf"}
    if missing := [words for name, words in names.items() if found.get(name) is None]:
        raise UnsupportedError(
            f"{' and '.join(missing)} not installed in {python}; in a checkout: pip install '.[llamacpp]'",
            f"name another with --engine-python or {VARIABLE}",
        )
    return found


def _ask(body: Mapping[str, Any], python: str) -> Answer:
    return ask(Question(script=_SCRIPT, body=body, python=python, seconds=_SECONDS, environment=_ENVIRONMENT))


def _prepare(result: SizeResult) -> _Start:
    """The skeleton, and the same request for the layers that it has."""
    request = result.request
    refuse_ranks("llama.cpp", request)
    published, reason = _published(result.model)
    skeleton = gguf_skeleton(published, result.model.architecture.layers)
    kept = None if skeleton.num_layers == published.architecture.num_layers else skeleton.num_layers
    claimed = replace(published.architecture, layers=result.model.architecture.layers[:kept])
    model = replace(published, name=result.model.name, architecture=replace(claimed, draft_layers=()))
    engine = result.rules if isinstance(result.rules, LlamaCpp) else LLAMACPP
    words = RequestWords(kv_dtype=_dtype_word(result))
    longest = request.settings.max_model_len or request.context_tokens
    choice = replace(build_choice(model, words, engine), policy=request.choice.policy)
    asked = replace(request, context_tokens=longest, choice=choice, settings=EngineSettings())
    return _Start(skeleton=skeleton, model=model, request=asked, engine=engine, reason=reason)


def _published(model: Model) -> tuple[Model, str]:
    """The model as published; the model itself, with the reason, where nothing says how that is."""
    try:
        return read_published(model), ""
    except UnsupportedError as error:
        return model, error.message


def _dtype_word(result: SizeResult) -> str:
    """``auto`` where the request leaves the cache in the model's dtype, which llama.cpp does not follow."""
    kv_format = result.request.choice.kv_format
    chosen = isinstance(result.rules, LlamaCpp) or kv_format.name != kv_format.native.name
    return kv_format.name if chosen else "auto"


def _question(start: _Start) -> dict[str, Any]:
    kv_format, engine = start.request.choice.kv_format, start.engine
    options = {
        "context": start.request.context_tokens,
        "sequences": start.request.concurrency,
        "type_k": _TYPE_NAMES.get(kv_format.key.name, kv_format.key.name),
        "type_v": _TYPE_NAMES.get(kv_format.value.name, kv_format.value.name),
        "ubatch": engine.ubatch,
        "swa_full": engine.swa_full,
        "unified": engine.unified,
        "flash_attention": engine.flash_attention,
    }
    skeleton = start.skeleton
    return {
        "arch": skeleton.arch,
        "header": skeleton.header,
        "optional_tensors": skeleton.optional_tensors,
        "options": options,
    }


def _account_check(start: _Start, measured: int | None) -> Iterator[Check]:
    """The buffers of all caches, to the byte, where llama.cpp's account of them could be read."""
    if measured is not None:
        yield Check(
            group=GROUP,
            what="all caches",
            predicted_bytes=start.result.allocated_bytes,
            measured_bytes=measured,
            detail="llama_get_memory_breakdown: buffers of the context",
        )


def _checks(start: _Start, lines: list[str]) -> Iterator[Check]:
    """Each side of each cache; a cache that only one of the two knows is held against nothing."""
    found = read_caches(start.devices(), start.slots)
    measured = _measured(lines)
    owners = _owners(start)
    for recurrent in (False, True):
        mine = sorted((cache for cache in found if (cache.name == RECURRENT) == recurrent), key=_rank)
        theirs = [sides for is_state, sides in measured if is_state == recurrent]
        for cache, logged in zip_longest(mine, theirs):
            words = f"{cache.name} cache of {layer_words(owners[cache.name])}" if cache else "a cache not predicted"
            yield from _side_checks(words, cache.side_bytes if cache else {}, logged or {})


def _rank(cache: Cache) -> int:
    return _CACHES.index(cache.name) if cache.name in _CACHES else len(_CACHES)


def _measured(lines: list[str]) -> list[tuple[bool, Sides]]:
    """The caches that have layers, as logged: whether of states, and bytes by side."""
    found = []
    for line in lines:
        match = _LINE.search(line)
        if match is not None and int(match["layers"]):
            sides = {match["one"]: _bytes(match["first"]), match["two"]: _bytes(match["second"])}
            found.append((match["who"] == "llama_memory_recurrent", sides))
    return found


def _bytes(mebibytes: str) -> int:
    return round(float(mebibytes) * MIB)


def _owners(start: _Start) -> dict[str, list[int]]:
    """The layers that have a part of each cache."""
    slots = start.slots
    caches = {
        placed.item.kind: {tensor.cache for tensor in placed.tensors(slots)}
        for device in start.devices()
        for placed in device
    }
    owners: dict[str, list[int]] = {}
    for index, layer in enumerate(start.model.architecture.layers):
        for cache in sorted({name for kind in layer for name in caches.get(kind, ())}):
            owners.setdefault(cache, []).append(index)
    return owners


def _side_checks(words: str, predicted: Sides, measured: Sides) -> Iterator[Check]:
    for side in dict.fromkeys([*predicted, *measured]):
        sizes = predicted.get(side, 0), measured.get(side, 0)
        if any(sizes):
            yield Check(
                group=GROUP,
                what=f"{words}: {_SIDES[side]}",
                predicted_bytes=sizes[0],
                measured_bytes=sizes[1],
                allowed_bytes=_ROUNDING_BYTES,
                detail=_LOGGED if measured else "llama.cpp logs no such cache",
            )


def _notes(start: _Start, versions: Mapping[str, Any]) -> Iterator[str]:
    version, skeleton = versions["llama_cpp_python"], start.skeleton
    yield (
        f"llama-cpp-python {version} ran on the CPU with the first {skeleton.num_layers} layers as {skeleton.arch}; "
        "it logs hundredths of a MiB"
    )
    if start.reason:
        yield f"the skeleton's shapes are those of the model at hand: {start.reason}"
    if version != READ_FROM:
        yield f"kvplan's rules of llama.cpp are those of llama-cpp-python {READ_FROM}, not of {version}"
