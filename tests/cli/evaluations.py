"""Evaluations as ``kvplan evaluate`` could have found them, for tests of what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kvplan.core.evaluation import Estimate, Evaluation, Gate, MethodReport, Thresholds


def estimate(value: float, half: float, count: int = 64) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, count=count)


def report(method: str, increase: float, verdict: str, reason: str = "", **more: Any) -> MethodReport:
    found = estimate(increase, 0.001)
    return MethodReport(
        method=method,
        perplexity_increase_ratio=found,
        kld_mean=estimate(max(increase, 0.0001), 0.00001),
        memory_ratio=0.5,
        thresholds=Thresholds(perplexity_increase_ratio=0.005),
        verdict=verdict,
        reason=reason,
        **more,
    )


OPEN = Gate(
    name="perplexity_increase_ratio",
    threshold=0.02,
    estimate=estimate(0.0195, 0.001),
    verdict="inconclusive",
    needed_count=640,
)
EVALUATION = Evaluation(
    model="meta-llama/Llama-3.1-8B",
    device="cpu",
    versions={"kvplan": "0.0"},
    settings={"ctx": 2048},
    baseline=MethodReport(method="none", memory_ratio=1.0, verdict="pass", reason="the baseline"),
    methods=(
        report("int8_per_token_head", 0.0001, "pass"),
        report("int4_per_token_head", 0.0195, "inconclusive", gates=(OPEN,)),
    ),
    notes=("times are those of Python",),
)
FAILED = replace(
    EVALUATION,
    methods=(
        *EVALUATION.methods,
        report(
            "fp8_e4m3",
            0.009,
            "fail",
            "perplexity increase 0.9% (0.8% to 1%), not below 0.5%",
            gates=(replace(OPEN, threshold=0.005, estimate=estimate(0.009, 0.001), verdict="fail"),),
        ),
        report("h2o:keep=0.5", 0.3, "fail", "needle drop 40% (30% to 50%), not below 5%"),
    ),
)
