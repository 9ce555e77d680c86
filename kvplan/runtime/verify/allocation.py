"""The allocation check: the predicted cache is really allocated, layer by layer, and measured by the device.

Tensors are built from shapes (``layout``), so a wrong head count, window, dtype or scale in the prediction shows as
bytes of a layer. What tensors asked for must agree to the byte everywhere; on CUDA so must what torch's allocator makes
of it, and the device's own free memory within what its driver rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from kvplan.core.errors import DoesNotFitError, KvplanError, UnsupportedError
from kvplan.core.request import SizeResult
from kvplan.core.search import largest
from kvplan.core.units import MIB, format_bytes, format_tokens
from kvplan.core.verification import Check
from kvplan.runtime.verify.device import Progress, margin_bytes, release, silent, total_and_free
from kvplan.runtime.verify.device_memory import (
    allocate,
    count_pattern,
    held_bytes,
    is_out_of_memory,
    pool_bytes,
    unpredictable,
    write_pattern,
)
from kvplan.runtime.verify.findings import Findings, join_findings, layer_words
from kvplan.runtime.verify.layout import LayerLayout, RankLayout, rank_layout
from kvplan.runtime.verify.stored_tensors import TensorShape
from kvplan.runtime.verify.torch_allocator import PoolBytes, predict_pool

GROUP = "allocation"

DRIVER_BYTES, DRIVER_SHARE = 2 * MIB, 1024
"""What a driver may take besides segments: one page of 2 MiB, and 1/1024 of them for page tables."""

Resize = Callable[[int], SizeResult]
"""The same request at another context."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One rank's tensors while they live: bytes by layer, the pool's gain (CUDA), and the drop of free memory."""

    layer_bytes: tuple[int, ...]
    total_bytes: int
    pool: PoolBytes | None
    taken_bytes: int
    read_back_bytes: int


def check_allocation(
    predicted: SizeResult,
    device: torch.device,
    *,
    built: SizeResult | None = None,
    stages: Sequence[int] | None = None,
    resize: Resize | None = None,
    progress: Progress = silent,
) -> Findings:
    """Allocate one rank of each pipeline stage (or of ``stages``) in turn, and compare.

    Tensors have the shapes of ``built``, the same request of the model as it really is, where that is given, else of
    ``predicted``. ``resize`` finds the context to name where memory is short. Raises DoesNotFitError there, before
    anything is allocated, and UnsupportedError where a format has no codec or the device not its dtypes.
    """
    truth = built or predicted
    chosen = range(len(truth.allocation.stages)) if stages is None else stages
    return join_findings(_check_stage(predicted, truth, stage, device, resize, progress) for stage in chosen)


def layout_of(result: SizeResult, stage: int) -> RankLayout:
    """As ``rank_layout``. Raises UnsupportedError where a format has no codec."""
    try:
        return rank_layout(result, stage)
    except LookupError as error:
        raise UnsupportedError(f"this cache cannot be built: {error}", "choose another --kv-dtype") from error


def _check_stage(
    predicted: SizeResult,
    truth: SizeResult,
    stage: int,
    device: torch.device,
    resize: Resize | None,
    progress: Progress,
) -> Findings:
    expected = layout_of(predicted, stage)
    layout = expected if truth is predicted else layout_of(truth, stage)
    release(device)
    _refuse_too_large(layout, truth, device, resize)
    unknown = unpredictable(device)
    before = pool_bytes(device) if device.type == "cuda" else None
    try:
        measured = _measure(layout, device, progress)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFitError(
            "the device ran out of memory while the cache was allocated", "does another process use it?"
        ) from error
    finally:
        release(device)
    name = f"stage {stage} " if len(truth.allocation.stages) > 1 else ""
    checks = [*_layer_checks(name, expected, layout, measured), *_total_checks(name, expected, layout, measured)]
    if measured.pool is not None and before is not None:
        if unknown is None:
            checks += _pool_checks(name, predict_pool(tensor.nbytes for tensor in layout.tensors()), measured)
        checks.append(_returned(name, before, pool_bytes(device)))
    skipped = [*_own_words(name, layout), *([f"allocator rounding: {unknown}"] if unknown else [])]
    return Findings(checks=tuple(checks), skipped=tuple(skipped))


def _refuse_too_large(layout: RankLayout, truth: SizeResult, device: torch.device, resize: Resize | None) -> None:
    sizes = [tensor.nbytes for tensor in layout.tensors()]
    needed = predict_pool(sizes).reserved_bytes if device.type == "cuda" else sum(sizes)
    _, free = total_and_free(device)
    usable = max(0, free - margin_bytes(free))
    if needed <= usable:
        return
    hint = "a shorter context or fewer requests need less"
    if resize is not None:
        rounding = needed - sum(sizes)
        context = _context_that_fits(resize, truth.request.context_tokens, usable - rounding)
        hint = f"a context of {format_tokens(context)} fits (--ctx {context})" if context else "not one token fits"
    raise DoesNotFitError(
        f"the cache takes {format_bytes(needed)} of a rank, and {format_bytes(usable)} of the "
        f"{format_bytes(free)} free on {device} are to be used",
        hint,
    )


def _context_that_fits(resize: Resize, context_tokens: int, usable_bytes: int) -> int:
    def fits(tokens: int) -> bool:
        try:
            return max(rank.allocated_bytes for rank in resize(tokens).allocation.stages) <= usable_bytes
        except KvplanError:
            return False

    return largest(fits, context_tokens)


def _measure(layout: RankLayout, device: torch.device, progress: Progress) -> _Measured:
    pool_before = pool_bytes(device) if device.type == "cuda" else None
    _, free_before = total_and_free(device)
    tensors: list[Tensor] = []
    layer_bytes = []
    for position, layer in enumerate(layout.layers):
        progress(f"allocating layer {position + 1} of {len(layout.layers)}")
        layer_bytes.append(_allocate_all(layer.tensors, device, tensors))
    rest = _allocate_all(layout.reserved, device, tensors)
    pool = pool_bytes(device).less(pool_before) if pool_before is not None else None
    _, free = total_and_free(device)
    progress("writing and reading back")
    write_pattern(tensors)
    return _Measured(
        layer_bytes=tuple(layer_bytes),
        total_bytes=sum(layer_bytes) + rest if pool is None else pool.requested_bytes,
        pool=pool,
        taken_bytes=free_before - free,
        read_back_bytes=count_pattern(tensors),
    )


def _allocate_all(shapes: Sequence[TensorShape], device: torch.device, held: list[Tensor]) -> int:
    """Allocate them and keep them in ``held``; the bytes that this requested, as measured."""
    start = len(held)
    before = held_bytes((), device)
    held += [allocate(shape, device) for shape in shapes]
    return held_bytes(held[start:], device) - before


def _layer_checks(name: str, expected: RankLayout, layout: RankLayout, measured: _Measured) -> Iterator[Check]:
    """A check for each set of layers with equal figures; a layer that only one of both has shows as such."""
    rows: dict[tuple[str, int, int], list[int]] = {}
    details: dict[tuple[str, int, int], str] = {}
    for ours, real, size in zip_longest(expected.layers, layout.layers, measured.layer_bytes, fillvalue=None):
        predicted = ours.predicted_bytes if ours else 0
        found = real or ours
        if found is None or (real and real.own) or not (predicted or size):
            continue
        key = (found.kind, predicted, size or 0)
        rows.setdefault(key, []).append(found.index)
        details.setdefault(key, _shape_words(real))
    for (kind, predicted, size), indices in rows.items():
        yield Check(
            group=GROUP,
            what=f"{name}{layer_words(indices)} {kind}",
            predicted_bytes=len(indices) * predicted,
            measured_bytes=len(indices) * size,
            detail=details[kind, predicted, size],
        )


def _shape_words(layer: LayerLayout | None) -> str:
    if layer is None:
        return "the model has no such layer"
    return "each " + ", ".join(
        f"{tensor.name} {str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for tensor in layer.tensors
    )


def _total_checks(name: str, expected: RankLayout, layout: RankLayout, measured: _Measured) -> Iterator[Check]:
    """All tensors together, unless nothing but the engine's own figure went into them; and what they hold."""
    reserved = sum(tensor.nbytes for tensor in layout.reserved)
    beside = f", {format_bytes(reserved)} of them reserved blocks" if reserved else ""
    if measured.pool is not None or any(layer.shaped for layer in layout.layers):
        yield Check(
            group=GROUP,
            what=f"{name}requested by all tensors",
            predicted_bytes=expected.predicted_bytes,
            measured_bytes=measured.total_bytes,
            detail=("torch.cuda.memory_stats: requested_bytes" if measured.pool else "storages of the tensors")
            + beside,
        )
        yield Check(
            group=GROUP,
            what=f"{name}read back as written",
            predicted_bytes=measured.total_bytes,
            measured_bytes=measured.read_back_bytes,
            detail="bytes that hold the pattern of their own tensor",
        )


def _pool_checks(name: str, predicted: PoolBytes, measured: _Measured) -> Iterator[Check]:
    assert measured.pool is not None
    yield Check(
        group=GROUP,
        what=f"{name}allocated by torch",
        predicted_bytes=predicted.allocated_bytes,
        measured_bytes=measured.pool.allocated_bytes,
        detail="torch.cuda.memory_stats: allocated_bytes; blocks of 512 B, unsplit rests",
    )
    yield Check(
        group=GROUP,
        what=f"{name}reserved by torch",
        predicted_bytes=predicted.reserved_bytes,
        measured_bytes=measured.pool.reserved_bytes,
        detail="torch.cuda.memory_stats: reserved_bytes; segments of 2 MiB, 20 MiB or their own",
    )
    yield Check(
        group=GROUP,
        what=f"{name}free memory of the device",
        predicted_bytes=predicted.reserved_bytes,
        measured_bytes=measured.taken_bytes,
        allowed_bytes=DRIVER_BYTES + predicted.reserved_bytes // DRIVER_SHARE,
        detail="torch.cuda.mem_get_info before less after; the driver rounds and keeps page tables",
    )


def _returned(name: str, before: PoolBytes, after: PoolBytes) -> Check:
    return Check(
        group=GROUP,
        what=f"{name}still reserved afterwards",
        predicted_bytes=before.reserved_bytes,
        measured_bytes=after.reserved_bytes,
        detail="torch.cuda.memory_stats: reserved_bytes, after everything was given back",
    )


def _own_words(name: str, layout: RankLayout) -> Iterator[str]:
    """Which layers were allocated as flat bytes, and why."""
    found: dict[tuple[str, str], list[int]] = {}
    for layer in layout.layers:
        if layer.own:
            found.setdefault((layer.kind, layer.own), []).append(layer.index)
    for (kind, own), indices in found.items():
        yield f"{name}{layer_words(indices)} {kind}: {own}; allocated as the engine's bytes, not proved by shapes"
