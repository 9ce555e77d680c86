"""The JSON contract of ``kvplan recommend``; a key may be added, never renamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvplan.core.advice import ClassicRule, MatrixRow
from kvplan.core.launch import Launch
from kvplan.core.policy import describe_policy
from kvplan.planning.recommendation import Choice, Recommendation
from kvplan.reports.recommend_rows import advice_sentence, quality_words
from kvplan.reports.to_csv import render_csv


def recommend_fields(answer: Recommendation, launch: Launch) -> dict[str, Any]:
    """The ``result``."""
    row, case, chosen = answer.matrix.row, answer.case, answer.chosen
    quality = chosen.quality
    policy = describe_policy(chosen.result.request.size.choice.policy)
    return {
        "recommendation": {
            "kv_cache_dtype": chosen.option.word,
            "stored_format": chosen.option.format_name,
            "native_windows": chosen.option.native_windows,
            "native_layers": sorted(chosen.result.request.size.choice.kv_format.native_layers),
            "policy": policy,
            "rule": answer.decision.rule.id,
            "reason": answer.decision.rule.reason,
            "because": answer.decision.shown,
            "sources": list(answer.decision.rule.sources),
            "sentence": advice_sentence(answer),
            "fits": answer.final.fits,
        },
        "matrix_row": row_fields(row),
        "matrix_exact": answer.matrix.exact,
        "matrix_differs": answer.differs,
        "classic_rules": [
            {"rule": check.rule.text, "side": check.rule.side, "met": check.met, "because": check.shown}
            for check in answer.classic
        ],
        "pressure_ratio": _finite(case.pressure_ratio),
        "kv_share_ratio": case.kv_share_ratio,
        "bound": case.bound,
        "kv_step_share_ratio": case.kv_step_share_ratio,
        "prefill_share_ratio": case.prefill_share_ratio,
        "prefill_seconds": answer.prefill_seconds,
        "break_even_tokens": _finite(case.break_even_tokens),
        "savings_ratio": answer.savings_ratio,
        "quality": {
            "expected": None if quality is None else quality_words(chosen),
            "expected_loss_ratio": None if quality is None else quality.row.loss_ratio,
            "source": None if quality is None else quality.row.source,
            "measured": quality is not None and quality.row.measured,
            "gate": None if chosen.gate is None else chosen.gate.shown,
            "evaluate": chosen.evaluate,
        },
        "before": choice_fields(answer.native),
        "after": choice_fields(chosen),
        "measures": [entry.fields() for entry in answer.measures],
        "actions": list(answer.actions),
        "alternatives": [choice_fields(choice) for choice in answer.alternatives],
        "rejected": [{"option": entry.option, "reason": entry.reason} for entry in answer.rejected],
        "launch": launch_fields(launch),
    }


def matrix_fields(matrix: Sequence[MatrixRow], rules: Sequence[ClassicRule]) -> dict[str, Any]:
    """The ``result`` without a case: the classic matrix and its rules."""
    return {
        "matrix": [row_fields(row) for row in matrix],
        "rules": [{"side": rule.side, "rule": rule.text} for rule in rules],
    }


def row_fields(row: MatrixRow) -> dict[str, str]:
    """A row of the classic matrix."""
    names = ("context", "concurrency", "memory_pressure", "recommendation")
    return {name: getattr(row, name) for name in names}


def choice_fields(choice: Choice) -> dict[str, Any]:
    """One cache; times are estimates, null where not known."""
    result = choice.result
    return {
        "kv_cache_dtype": choice.option.word,
        "stored_format": choice.option.format_name,
        "fits": choice.fits,
        "kv_bytes_needed": choice.option.needed_bytes,
        "available_bytes": result.available_bytes,
        "capacity_tokens": result.capacity.capacity_tokens if result.capacity else None,
        "max_concurrency": result.max_concurrency,
        "batch": choice.batch,
        "step_seconds": choice.step.step_seconds if choice.step else None,
        "tokens_per_second": choice.tokens_per_second,
        "speed_source": choice.speed.source if choice.speed else None,
        "quality": quality_words(choice),
        "quality_loss_ratio": choice.quality.row.loss_ratio if choice.quality else None,
        "gate": choice.gate.shown if choice.gate else None,
    }


def launch_fields(launch: Launch) -> dict[str, Any]:
    """How to start it."""
    return {
        "engine": launch.target,
        "argv": list(launch.argv),
        "environment": dict(launch.environment),
        "files": dict(launch.files),
        "python": launch.python,
        "notes": list(launch.notes),
    }


def recommend_csv(answer: Recommendation) -> str:
    """One line for the chosen cache, the native one and each alternative."""
    chosen = choice_fields(answer.chosen)
    rows = [{"role": "recommended", **chosen}, {"role": "native", **choice_fields(answer.native)}]
    rows += [{"role": "alternative", **choice_fields(choice)} for choice in answer.alternatives]
    return render_csv(list(rows[0]), [list(row.values()) for row in rows])


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value
