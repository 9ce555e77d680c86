"""The rows of a workload's replay as plain text."""

from __future__ import annotations

from kvplan.core.fit import FitResult
from kvplan.core.units import format_bytes
from kvplan.core.workload import Quantiles
from kvplan.planning.workload_fit import WorkloadFit


def workload_verdict(fit: WorkloadFit, result: FitResult) -> str:
    """What the workload meets, in words, and the memory with which it vanishes."""
    report = fit.report
    ample = format_bytes(fit.ample_kv_bytes)
    available = format_bytes(result.available_bytes)
    if not report.short_of_memory:
        return f"Nothing waits for memory: {ample} of the {available} of a rank's cache would do."
    waits = f"{report.memory_waits:,} requests wait for memory, {report.preemptions:,} preemptions"
    rejected = f", {report.too_large:,} are larger than the pool" if report.too_large else ""
    words = f"{waits}{rejected}; with {ample} of cache on a rank (here {available}) nothing would wait for memory."
    return f"{words} {_hardware_words(fit)}"


def _hardware_words(fit: WorkloadFit) -> str:
    placed = fit.ample_hardware
    if placed is None:
        return "No node of these devices has that much: spread the load over replicas (--dp), or shrink the cache."
    parallel = placed.size.parallel
    return f"{placed.num_devices} x {placed.accelerator.name} have it (--tp {parallel.tp} --pp {parallel.pp})."


def workload_rows(fit: WorkloadFit) -> list[tuple[str, ...]]:
    """Quantiles of blocks in use, of requests running and queued, and of the wait in the queue."""
    report = fit.report
    return [
        ("blocks in use", *_row(report.blocks, ",.0f")),
        ("share of the pool", *_row(report.blocks, ".1%", report.num_blocks)),
        ("requests running", *_row(report.running, ",.0f")),
        ("requests queued", *_row(report.queued, ",.0f")),
        ("seconds in the queue", *_row(report.queue_seconds, ",.2f")),
    ]


def _row(quantiles: Quantiles, form: str, whole: int = 1) -> tuple[str, ...]:
    return tuple(format(value / whole, form) for value in (quantiles.p50, quantiles.p90, quantiles.p99, quantiles.peak))


def speed_words(fit: WorkloadFit) -> str:
    """The assumed speed of a replica, and whether requests wait for compute."""
    speed, report = fit.speed, fit.report
    busy = f"prefill busy {report.prefill_busy_ratio:.0%} of the time"
    return (
        f"{speed.prefill_tokens_per_second:,.0f} prompt tokens/s, "
        f"{1000 * speed.decode_seconds_per_token:.1f} ms a step ({fit.speed_source}); {busy}"
    )
