"""The JSON contract of ``kvplan evaluate``; a key may be added, never renamed. ``kvplan recommend`` reads it back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from kvplan.core.evaluation import Estimate, Evaluation, Gate, MethodReport, Thresholds
from kvplan.reports.evaluate_rows import evaluate_verdict
from kvplan.reports.to_csv import render_csv

_ESTIMATES = (
    "perplexity_increase_ratio",
    "kld_mean",
    "top1_agreement_ratio",
    "needle_recall_ratio",
    "needle_drop_ratio",
    "accuracy_ratio",
    "accuracy_drop_ratio",
    "prefill_ratio",
    "latency_ratio",
)
_PLAIN = ("kld_p99", "kld_max", "memory_ratio", "steady_bytes", "peak_bytes")


def evaluate_fields(found: Evaluation) -> dict[str, Any]:
    """The ``result``."""
    return {
        "model": found.model,
        "device": found.device,
        "versions": dict(found.versions),
        "settings": dict(found.settings),
        "verdict": evaluate_verdict(found),
        "passed": found.passed,
        "baseline": method_fields(found.baseline),
        "methods": [method_fields(report) for report in found.methods],
        "notes": list(found.notes),
    }


def method_fields(report: MethodReport) -> dict[str, Any]:
    """One method: each figure, ``NAME_interval`` [low, high] of 95 % and ``NAME_count`` samples; null: not measured."""
    found: dict[str, Any] = {"method": report.method}
    for name in _ESTIMATES:
        found |= _estimate_fields(name, getattr(report, name))
    found |= {name: getattr(report, name) for name in _PLAIN}
    grid = sorted(report.needle_grid.items())
    found["needle_grid"] = [
        {"length_tokens": length, "depth_ratio": depth, "recall_ratio": recall} for (length, depth), recall in grid
    ]
    found["thresholds"] = {item.name: getattr(report.thresholds, item.name) for item in fields(Thresholds)}
    found["gates"] = [_gate_fields(gate) for gate in report.gates]
    return {**found, "verdict": report.verdict, "reason": report.reason}


def evaluate_csv(found: Evaluation) -> str:
    """One line for the baseline and each method: every figure with the ends of its interval."""
    rows = []
    for report in (found.baseline, *found.methods):
        row: dict[str, Any] = {"model": found.model, "device": found.device, "method": report.method}
        for name in _ESTIMATES:
            estimate: Estimate | None = getattr(report, name)
            ends = (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends))
        row |= {name: getattr(report, name) for name in _PLAIN}
        rows.append({**row, "verdict": report.verdict, "reason": report.reason})
    return render_csv(list(rows[0]), [list(row.values()) for row in rows])


def _estimate_fields(name: str, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {name: None, f"{name}_interval": None, f"{name}_count": None}
    interval = [estimate.low, estimate.high]
    return {name: estimate.value, f"{name}_interval": interval, f"{name}_count": estimate.count}


def _gate_fields(gate: Gate) -> dict[str, Any]:
    return {
        "name": gate.name,
        "threshold": gate.threshold,
        "value": gate.estimate.value,
        "interval": [gate.estimate.low, gate.estimate.high],
        "count": gate.estimate.count,
        "verdict": gate.verdict,
        "needed_count": gate.needed_count,
    }
