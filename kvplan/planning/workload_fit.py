"""A workload on the hardware of a fit: its block pool, its speed, and the replay."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from kvplan.core.engine import Engine
from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.workload import BlockTerm, PoolShape, ReplayReport, ServingSpeed, Workload
from kvplan.planning.fit import build_budget_request, fit_model
from kvplan.planning.hardware_search import NODE_COUNTS
from kvplan.planning.placement import choose_parallel
from kvplan.planning.replay import ample_blocks, replay

DECODE_EFFICIENCY, PREFILL_EFFICIENCY = 0.9, 0.5
"""Shares of bandwidth and of the dense 16-bit peak that are reached: assumptions, said in the report."""

DEFAULT_SEQUENCES = 256
"""Requests at once where the engine states no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFit:
    """What a workload does to one replica, the pool in which nothing waits for memory, and the assumed speed.

    ``ample_hardware`` is the fewest of the same devices with such a pool, and None where a node of them has none.
    """

    workload: Workload
    report: ReplayReport
    ample_blocks: int
    ample_hardware: FitRequest | None
    bytes_per_block: int
    speed: ServingSpeed
    speed_source: str

    @property
    def ample_kv_bytes(self) -> int:
        """Cache of a rank with which queueing for memory and preemption vanish."""
        return (self.ample_blocks + 1) * self.bytes_per_block


def replay_workload(
    result: FitResult, engine: Engine, workload: Workload, prefill_rate: float | None, decode_seconds: float | None
) -> WorkloadFit:
    """Replay on one replica. Raises UsageError or UnsupportedError where the engine has no pool to replay on."""
    pool, block_bytes = _pool(result, engine)
    speed, source = _speed(result, prefill_rate, decode_seconds)
    hashes = workload.hash_block_tokens if result.request.size.settings.prefix_caching is not False else None
    ample = ample_blocks(workload.requests, pool, speed, hashes)
    return WorkloadFit(
        workload=workload,
        report=replay(workload.requests, pool, speed, hashes),
        ample_blocks=ample,
        ample_hardware=_ample_hardware(result, engine, ample),
        bytes_per_block=block_bytes,
        speed=speed,
        speed_source=source,
    )


def _ample_hardware(result: FitResult, engine: Engine, blocks: int) -> FitRequest | None:
    """The placement over the fewest devices, from those at hand up, whose pool has as many blocks to give."""
    request, model = result.request, result.model
    for count in sorted({request.num_devices, *NODE_COUNTS}):
        if count < request.num_devices:
            continue
        placed = request
        if count > request.num_devices:
            parallel = choose_parallel(model.architecture, count, None, None, None, 1)
            placed = replace(request, size=replace(request.size, parallel=parallel))
        try:
            capacity = fit_model(model, placed, engine).capacity
        except UsageError:
            continue
        if capacity is not None and (capacity.num_blocks or 0) > blocks:
            return placed
    return None


def _pool(result: FitResult, engine: Engine) -> tuple[PoolShape, int]:
    capacity = result.capacity
    if capacity is None:
        raise UsageError(
            "the engine does not start, so there is no pool to replay on", "see kvplan fit without --trace"
        )
    if capacity.num_blocks is None or not hasattr(engine, "block_terms"):
        raise UnsupportedError(f"{engine.name} has no block pool that kvplan can replay", "use --engine vllm")
    asked = build_budget_request(result.model, result.request, engine).allocation
    terms = cast("tuple[BlockTerm, ...]", engine.block_terms(asked))
    pool = PoolShape(
        num_blocks=capacity.num_blocks - 1,
        growing=terms,
        max_num_seqs=result.max_num_seqs or DEFAULT_SEQUENCES,
        max_model_len=asked.max_model_len,
    )
    return pool, max(stage.bytes_per_block or 0 for stage in capacity.stages)


def _speed(result: FitResult, prefill_rate: float | None, decode_seconds: float | None) -> tuple[ServingSpeed, str]:
    """What the user states, else a roofline of the device: weights read once a step, two operations a parameter."""
    if prefill_rate is not None and decode_seconds is not None:
        return _serving(prefill_rate, decode_seconds), "as stated"
    device = result.request.accelerator
    parameters = result.model.architecture.parameters
    bandwidth, peak = device.bandwidth_bytes_per_second, device.peak_flops.get("bf16")
    if bandwidth is None or peak is None or parameters is None:
        raise UsageError(f"the speed of {device.name} is not known", "give --prefill-rate and --decode-time")
    ranks = result.request.size.parallel.tp
    weights = max(budget.weights.size_bytes for budget in result.budgets) * len(result.budgets)
    active = parameters.active or parameters.total
    return (
        _serving(
            prefill_rate or PREFILL_EFFICIENCY * peak * ranks / (2 * active),
            decode_seconds or weights / (DECODE_EFFICIENCY * bandwidth),
        ),
        "a roofline of the device (--prefill-rate and --decode-time state yours)",
    )


def _serving(prefill_rate: float, decode_seconds: float) -> ServingSpeed:
    return ServingSpeed(prefill_tokens_per_second=prefill_rate, decode_seconds_per_token=decode_seconds)
