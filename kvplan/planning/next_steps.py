"""What to try next after a size: the same request with a smaller cache, each with its own bytes."""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.errors import UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import CacheChoice
from kvplan.core.request import SizeResult
from kvplan.formats import parse_kv_format
from kvplan.planning.sweep import compile_curve


@dataclass(frozen=True, slots=True)
class NextStep:
    """An option to add to the command, what it would bring, and the bytes of all sequences with it."""

    option: str
    words: str
    geometry_bytes: int


_CANDIDATES = (("fp8", "in 8 bits"), ("int4", "in 4 bits"))


def next_steps(result: SizeResult) -> tuple[NextStep, ...]:
    """Smaller caches for a request that compresses nothing yet; empty where nothing would shrink."""
    if result.uncompressed_bytes != result.geometry_bytes:
        return ()
    steps = []
    for name, words in _CANDIDATES:
        choice = replace(result.request.choice, kv_format=parse_kv_format(name, result.model.dtype))
        size = _cache_bytes(result, choice)
        if size is not None and size < result.geometry_bytes:
            steps.append(NextStep(f"--kv-dtype {name}", words, size))
    return tuple(steps)


def _cache_bytes(result: SizeResult, choice: CacheChoice) -> int | None:
    try:
        curve = compile_curve(result.model, choice)
    except UnsupportedError:
        return None
    request = result.request
    return request.concurrency * curve.geometry_bytes(request.context_tokens, request.encoder_tokens)
