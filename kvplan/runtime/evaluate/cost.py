"""What a method costs in time and memory: seconds per prefill and per decoded token, stored bytes, and the peak.

Method and baseline take turns, so that a machine that grows slower or is shared for a while slows both alike. These are
the times of reference code in Python: they compare methods inside kvplan, and say nothing of an engine's kernels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.tasks import Piece
from kvplan.runtime.evaluate.texts import prose_ids

LATENCY_NOTE = "times are those of kvplan's reference caches in Python, and say nothing of an engine's kernels"
"""For whoever shows the times."""

_WARM_UP_TOKENS = 64

MEASURED, ESTIMATED = "measured", "estimated"
"""How ``peak_bytes`` is known: from torch's CUDA allocator, or by arithmetic."""


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """One sequence of ``context_tokens`` is prefilled and ``decode_tokens`` are decoded, ``repeats`` times.

    Of 9 turns the 95 % interval of the median leaves the fastest and the slowest out; fewer than 6 have none.
    """

    context_tokens: int = 1024
    decode_tokens: int = 8
    repeats: int = 9
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One prefill and the decoding after it: seconds, per token in decoding, and what the cache then stored.

    ``peak_bytes`` is what the device held at most, weights and all; None where nobody counts.
    """

    prefill_seconds: float
    decode_seconds: float
    steady_bytes: int
    peak_bytes: int | None


def cost(handle: ModelHandle, settings: CostSettings) -> list[Piece]:
    """The tasks ``latency`` and ``memory``, in one piece.

    A record of ``latency`` carries the baseline's times of the same turns, too: ``baseline_prefill_seconds`` and
    ``baseline_decode_seconds``. One of ``memory`` says under ``peak`` how ``peak_bytes`` is known.
    """
    sample = f"{settings.context_tokens}+{settings.decode_tokens} tokens"

    def measure(methods: Sequence[Method]) -> Iterator[Record]:
        ids = handle.rows([prose_ids(handle, settings.context_tokens + settings.decode_tokens, settings.seed)])
        turns = _take_turns(handle, list(dict.fromkeys([Method(), *methods])), ids, settings)
        for method in methods:
            yield _latency(method, sample, turns[method], turns[Method()])
            yield _memory(handle, method, sample, turns[method], ids)

    return [Piece(tasks=("latency", "memory"), samples=(sample,), measure=measure)]


def _take_turns(
    handle: ModelHandle, methods: Sequence[Method], ids: Tensor, settings: CostSettings
) -> dict[Method, list[Turn]]:
    """The turns of each method, one of every method after another; a short one before, as first runs are slower."""
    short = min(settings.context_tokens, _WARM_UP_TOKENS)
    for method in methods:
        _turn(handle, method, ids[:, : short + 1], short)
    turns: dict[Method, list[Turn]] = {method: [] for method in methods}
    for _ in range(settings.repeats):
        for method in methods:
            turns[method].append(_turn(handle, method, ids, settings.context_tokens))
    return turns


def _turn(handle: ModelHandle, method: Method, ids: Tensor, context_tokens: int) -> Turn:
    on_gpu = handle.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(handle.device)
    cache = handle.new_cache(method)
    started = _now(handle)
    handle.prefill(ids[:, :context_tokens], cache)
    prefilled = _now(handle)
    for _ in handle.score_suffix(cache, ids[:, context_tokens:], chunk=1):
        pass
    return Turn(
        prefill_seconds=prefilled - started,
        decode_seconds=(_now(handle) - prefilled) / (ids.shape[1] - context_tokens),
        steady_bytes=cache.stored_bytes,
        peak_bytes=int(torch.cuda.max_memory_allocated(handle.device)) if on_gpu else None,
    )


def _latency(method: Method, sample: str, turns: Sequence[Turn], baseline: Sequence[Turn]) -> Record:
    values = {
        "prefill_seconds": [turn.prefill_seconds for turn in turns],
        "decode_seconds": [turn.decode_seconds for turn in turns],
        "baseline_prefill_seconds": [turn.prefill_seconds for turn in baseline],
        "baseline_decode_seconds": [turn.decode_seconds for turn in baseline],
    }
    return Record(task="latency", method=method.text, sample=sample, values=values)


def _memory(handle: ModelHandle, method: Method, sample: str, turns: Sequence[Turn], ids: Tensor) -> Record:
    steady = turns[-1].steady_bytes
    peaks = [turn.peak_bytes for turn in turns if turn.peak_bytes is not None]
    values = {
        "steady_bytes": steady,
        "peak_bytes": max(peaks) if peaks else steady + _around_the_cache(handle, ids),
        "peak": MEASURED if peaks else ESTIMATED,
        "tokens": ids.shape[1],
    }
    return Record(task="memory", method=method.text, sample=sample, values=values)


def _now(handle: ModelHandle) -> float:
    """Seconds, once the device has done what it was given."""
    if handle.device.type == "cuda":
        torch.cuda.synchronize(handle.device)
    elif handle.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _around_the_cache(handle: ModelHandle, ids: Tensor) -> int:
    """Weights, and the largest layer's rows as attention reads them: all tokens, decoded.

    Besides the stored cache that is what kvplan's caches need at most, as they compress layer after layer. Other
    activations are not in it.
    """
    weights = sum(parameter.nbytes for parameter in handle.model.parameters())
    cache = handle.new_cache(Method())
    handle.prefill(ids[:, :1], cache)
    widest: int = max(sum(part.num_heads * part.width for part in layer.parts) for layer in cache.layer_caches.values())
    return int(weights) + widest * int(ids.shape[1]) * int(handle.dtype.itemsize)
