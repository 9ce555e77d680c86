"""The frontier check: as many blocks as are predicted are really allocated beside the weights, and one more fails.

On CUDA torch itself keeps the limit (``set_per_process_memory_fraction``), so the frontier is the same on every run and
256 MiB of the device stay free; the failure is torch's own OutOfMemoryError. On a CPU, Linux limits a process of its
own. Both limits are drawn at what is free now, whatever device the plan is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kvplan.core.engine import Allocation
from kvplan.core.errors import DoesNotFitError, UnsupportedError
from kvplan.core.fit import FitResult
from kvplan.core.model import Model
from kvplan.core.request import SizeRequest
from kvplan.core.search import largest
from kvplan.core.units import MIB, format_bytes
from kvplan.core.verification import Check
from kvplan.runtime.verify.device import MARGIN_BYTES, Progress, release, silent, total_and_free
from kvplan.runtime.verify.device_memory import (
    allocate,
    count_pattern,
    holds_tensors,
    pool_bytes,
    unpredictable,
    write_pattern,
)
from kvplan.runtime.verify.findings import Findings
from kvplan.runtime.verify.layout import RankLayout, rank_layout
from kvplan.runtime.verify.limited_memory import largest_in_limit, mapped_bytes
from kvplan.runtime.verify.stored_tensors import TensorShape, flat_tensor
from kvplan.runtime.verify.torch_allocator import SEGMENT_MULTIPLE_BYTES, predict_pool

GROUP = "frontier"


@dataclass(frozen=True, kw_only=True)
class _FitPlan:
    """A fit as a layout asks for it."""

    model: Model
    request: SizeRequest
    engine: str
    allocation: Allocation


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A cache that grows by units (``block`` or ``request``) beside a block of weights and overhead.

    ``fitting`` is how many units the fit says that its own device holds.
    """

    unit_name: str
    unit: tuple[TensorShape, ...]
    unit_bytes: int
    fitting: int
    beside_bytes: int

    def tensors(self, units: int) -> list[TensorShape]:
        """The block beside, and the cache of so many units."""
        return [flat_tensor("beside", self.beside_bytes), *(tensor.repeat(units) for tensor in self.unit if units)]

    def words(self, units: int) -> str:
        """``7,034 blocks``."""
        return f"{units:,} {self.unit_name}{'' if units == 1 else 's'}"


def check_frontier(fit: FitResult, device: torch.device, *, progress: Progress = silent) -> Findings:
    """Look for the most blocks (or requests, without blocks) that the free memory of the device holds.

    Raises DoesNotFitError where not one fits beside the weights, and UnsupportedError where no limit can be kept.
    """
    release(device)
    total, free = total_and_free(device)
    growth = growth_of(fit, in_use_bytes=total - free if device.type == "cuda" else 0)
    limit = (free - MARGIN_BYTES) // SEGMENT_MULTIPLE_BYTES * SEGMENT_MULTIPLE_BYTES
    if growth.beside_bytes + growth.unit_bytes > limit:
        raise _too_large(growth, free)
    if device.type == "cuda":
        return _cuda_frontier(growth, device, limit, progress)
    if device.type == "cpu":
        return _cpu_frontier(growth, limit, progress)
    raise UnsupportedError(f"no limit can be kept on {device.type}", "look for the frontier on cuda or cpu")


def _too_large(growth: Growth, free_bytes: int) -> DoesNotFitError:
    """What to do where not one unit fits: beside weights that do, a request is the smaller the shorter its context."""
    shorter = "a shorter --ctx, " if growth.unit_name == "request" and growth.beside_bytes < free_bytes else ""
    return DoesNotFitError(
        f"weights and overhead take {format_bytes(growth.beside_bytes)}, a {growth.unit_name} takes"
        f" {format_bytes(growth.unit_bytes)}, and {format_bytes(free_bytes)} are free",
        f"choose {shorter}a smaller --weights format or more ranks (--tp)",
    )


def growth_of(fit: FitResult, in_use_bytes: int = 0) -> Growth:
    """How the cache of the fullest rank grows; what is in use on the device already is not held beside it again."""
    stage = fit.budgets.index(fit.fullest)
    budget, needed = fit.fullest, fit.needed.stages[stage]
    layout = rank_layout(
        _FitPlan(model=fit.model, request=fit.request.size, engine=fit.engine, allocation=fit.needed), stage
    )
    sequences = fit.request.size.parallel.sequences_per_replica(fit.request.size.concurrency)[0]
    beside = (budget.weights, budget.activation, budget.cuda_graph)
    blocks = fit.capacity.num_blocks if fit.capacity else None
    paged = bool(needed.bytes_per_block and blocks)
    return Growth(
        unit_name="block" if paged else "request",
        unit=_block(layout, needed.bytes_per_block or 0) if paged else _request(layout, sequences),
        unit_bytes=(needed.bytes_per_block or 0) if paged else needed.allocated_bytes // sequences,
        fitting=(blocks or 0) if paged else fit.max_concurrency_at_context,
        beside_bytes=sum(line.size_bytes for line in beside) + max(0, budget.non_torch.size_bytes - in_use_bytes),
    )


def _block(layout: RankLayout, bytes_per_block: int) -> tuple[TensorShape, ...]:
    """One block of every layer, where axis 0 is the block; else one block of the pool that they share."""
    if not layout.paged:
        return (flat_tensor("block", bytes_per_block),)
    return tuple(TensorShape(name=t.name, shape=(1, *t.shape[1:]), dtype=t.dtype) for t in layout.tensors())


def _request(layout: RankLayout, sequences: int) -> tuple[TensorShape, ...]:
    """What one request takes of every tensor."""
    return tuple(
        TensorShape(name=t.name, shape=(t.shape[0] // sequences, *t.shape[1:]), dtype=t.dtype) for t in layout.tensors()
    )


def _cuda_frontier(growth: Growth, device: torch.device, limit: int, progress: Progress) -> Findings:
    if reason := unpredictable(device):
        return Findings(skipped=(f"frontier: {reason}",))
    before = pool_bytes(device).reserved_bytes
    total = torch.cuda.get_device_properties(device).total_memory

    def fits(units: int) -> bool:
        """Whether torch's rules say that so many units stay within the limit."""
        sizes = (tensor.nbytes for tensor in growth.tensors(units))
        return before + predict_pool(sizes).reserved_bytes <= limit

    def holds(units: int) -> bool:
        """Whether so many units are really allocated."""
        progress(f"allocating {growth.words(units)} beside {format_bytes(growth.beside_bytes)}")
        held = holds_tensors(growth.tensors(units), device)
        release(device)
        return held

    most = limit // growth.unit_bytes
    predicted = largest(fits, most)
    with _memory_limit(device, (limit + MIB) / total):  # segments are multiples of 2 MiB: half of one settles rounding
        fitting = _fitting_check(growth, holds(growth.fitting)) if fits(growth.fitting) else None
        measured = largest(holds, 2 * most + 2, predicted)
    usable = Check(
        group=GROUP,
        what="usable after the failure",
        predicted_bytes=MIB,
        measured_bytes=_write_and_read(device),
        detail="bytes written and read back",
    )
    returned = Check(
        group=GROUP,
        what="still reserved afterwards",
        predicted_bytes=before,
        measured_bytes=pool_bytes(device).reserved_bytes,
        detail="torch.cuda.memory_stats: reserved_bytes",
    )
    frontier = _frontier_check(growth, predicted, measured, limit, "torch.OutOfMemoryError")
    return _found(growth, limit, fitting, (frontier, usable, returned))


def _cpu_frontier(growth: Growth, limit: int, progress: Progress) -> Findings:
    def fits(units: int) -> bool:
        """Whether so many units stay within the limit."""
        return sum(mapped_bytes(tensor.nbytes) for tensor in growth.tensors(units)) <= limit

    most = limit // growth.unit_bytes
    predicted = largest(fits, most)
    progress(f"allocating {growth.words(predicted)} in a process limited to {format_bytes(limit)}")
    measured, usable = largest_in_limit(growth.unit, growth.beside_bytes, limit, 2 * most + 2, predicted)
    after = Check(
        group=GROUP,
        what="usable after the failure",
        predicted_bytes=growth.unit_bytes,
        measured_bytes=growth.unit_bytes * usable,
        detail=f"one {growth.unit_name} is allocated again",
    )
    frontier = _frontier_check(growth, predicted, measured, limit, "RLIMIT_AS of a process")
    fitting = _fitting_check(growth, measured >= growth.fitting) if fits(growth.fitting) else None
    return _found(growth, limit, fitting, (frontier, after))


def _frontier_check(growth: Growth, predicted: int, measured: int, limit: int, failure: str) -> Check:
    return Check(
        group=GROUP,
        what=f"{growth.unit_name}s within {format_bytes(limit)}",
        predicted_bytes=predicted * growth.unit_bytes,
        measured_bytes=measured * growth.unit_bytes,
        allowed_bytes=growth.unit_bytes,
        detail=f"{growth.words(predicted)} predicted, {growth.words(measured)} allocated beside "
        f"{format_bytes(growth.beside_bytes)}; the next one failed ({failure})",
    )


def _fitting_check(growth: Growth, held: bool) -> Check:
    """What ``fit`` says that its device holds."""
    size = sum(tensor.nbytes for tensor in growth.unit) * growth.fitting
    return Check(
        group=GROUP,
        what=f"{growth.words(growth.fitting)} that fit predicts",
        predicted_bytes=growth.fitting * growth.unit_bytes,
        measured_bytes=size if held else 0,
        detail=f"allocated beside {format_bytes(growth.beside_bytes)} of weights and overhead",
    )


def _found(growth: Growth, limit: int, fitting: Check | None, others: Sequence[Check]) -> Findings:
    if fitting is not None:
        return Findings(checks=(fitting, *others))
    reason = f"{growth.words(growth.fitting)} that fit predicts: more than the {format_bytes(limit)} free here"
    return Findings(checks=tuple(others), skipped=(reason,))


def _write_and_read(device: torch.device) -> int:
    tensor = allocate(flat_tensor("after", MIB), device)
    write_pattern([tensor])
    count = count_pattern([tensor])
    del tensor
    release(device)
    return count


@contextmanager
def _memory_limit(device: torch.device, fraction: float) -> Iterator[None]:
    """torch refuses to take more than this share of the device, and takes all of it again afterwards."""
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
