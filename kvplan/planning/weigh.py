"""What a cache brings and costs: its step, the nearest known figure of quality, and the gate to pass."""

from __future__ import annotations

from kvplan.core.advice import Case
from kvplan.core.frozen import dataclass
from kvplan.core.quality import Gate, QualityMatch, gate_for, quality_for
from kvplan.planning.cache_options import NATIVE_WORD, CacheOption
from kvplan.planning.evidence import gate_kind
from kvplan.planning.recommend_case import batch_of
from kvplan.planning.recommendation import Choice
from kvplan.planning.step_estimate import cache_speed, speed_row, step_of
from kvplan.specs.advice import Advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What every cache of one answer is weighed with."""

    advice: Advice
    case: Case


def weigh(option: CacheOption, scales: Scales) -> Choice:
    """The cache with everything that a reader compares it by."""
    result, advice, case = option.result, scales.advice, scales.case
    batch = batch_of(result)
    native = option.word == NATIVE_WORD
    kind = gate_kind(option)
    quality = None if native else known_quality(option, case.task, advice)
    measured = quality is not None and quality.row.measured and quality.same_family
    return Choice(
        option=option,
        batch=batch,
        step=step_of(result, cache_speed(result, advice.speed), batch),
        speed=speed_row(result, advice.speed),
        quality=quality,
        gate=None if native else _gate(kind, scales),
        evaluate=None if native or measured else evaluate_command(option, case),
    )


def known_quality(option: CacheOption, task: str, advice: Advice) -> QualityMatch | None:
    """The figure nearest to this cache, task, model and engine, measured before published; None where there is none."""
    result = option.result
    return quality_for(advice.quality, option.format_name, task, result.model.family, result.engine)


def _gate(kind: str, scales: Scales) -> Gate:
    return gate_for(scales.advice.gates, kind, scales.case.quality, scales.case.context_tokens)


def evaluate_command(option: CacheOption, case: Case) -> str:
    """The command that measures what the format costs this model."""
    model = option.result.model.name
    tasks = ["perplexity", "needle"] if case.task == "retrieval" or case.context_tokens > 65536 else ["perplexity"]
    tasks += ["qa"] if case.task in ("reasoning", "code") else []
    return f"kvplan evaluate --model {model} --methods {option.format_name} --tasks {','.join(tasks)}"
