"""Measured quality in place of published figures: what ``kvplan evaluate`` found about this very model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kvplan.core.errors import KvplanError
from kvplan.core.evaluation import BASELINE, Estimate, Evaluation, MethodReport
from kvplan.core.frozen import dataclass
from kvplan.core.quality import Gate, QualityRow, gate_for
from kvplan.formats import parse_kv_format
from kvplan.planning.cache_options import CacheOption
from kvplan.planning.quality_gates import format_kind
from kvplan.planning.recommend_case import Wishes
from kvplan.planning.recommendation import Rejected
from kvplan.specs.advice import Advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """An evaluation, the file that it is in, and the formats that it has.

    ``of_other_model``: it is of another model than the one asked about, and was accepted all the same.
    """

    source: str
    evaluation: Evaluation
    formats: dict[str, MethodReport]
    of_other_model: bool = False

    @property
    def where(self) -> str:
        """``measured on this model``, or on which other."""
        return (
            f"measured on {self.evaluation.model}, another model" if self.of_other_model else "measured on this model"
        )

    @property
    def left_aside(self) -> tuple[str, ...]:
        """Methods with a policy, which no engine switches on: they decide nothing here."""
        used = [report.method for report in self.formats.values()]
        return tuple(report.method for report in self.evaluation.methods if report.method not in used)


def read_as_evidence(evaluation: Evaluation, source: str, native: str, of_other_model: bool = False) -> Evidence:
    """The evaluation with its methods under the names of the formats that they store; ``native`` is the model's."""
    found = {name: report for report in evaluation.methods if (name := _format_name(report.method, native))}
    return Evidence(source=source, evaluation=evaluation, formats=found, of_other_model=of_other_model)


def with_measured_quality(advice: Advice, evidence: Evidence, family: str) -> Advice:
    """The advice with a measured row before the published ones, for every format that the evidence has."""
    rows = [row for name, report in evidence.formats.items() for row in _rows(name, report, evidence, family)]
    return replace(advice, quality=(*rows, *advice.quality))


def remove_failed(
    options: Sequence[CacheOption], evidence: Evidence | None, wishes: Wishes, advice: Advice
) -> tuple[tuple[CacheOption, ...], tuple[Rejected, ...]]:
    """The options without those that are measured to fail, and why each was taken out, once for each format."""
    if evidence is None:
        return tuple(options), ()
    reasons = {option.format_name: _failure(option, evidence, wishes, advice) for option in options}
    kept = tuple(option for option in options if reasons[option.format_name] is None)
    first = {option.format_name: option.word for option in reversed(options)}
    removed = tuple(Rejected(first[name], reason) for name, reason in reasons.items() if reason is not None)
    return kept, removed


def gate_kind(option: CacheOption) -> str:
    """``fp8``, ``int8`` or ``int4``: the gate that a format must pass, by its bits."""
    return format_kind(option.bits, option.format_name)


def _format_name(method: str, native: str) -> str | None:
    """The format that a method stores, or None where it drops tokens as well, or is no format of kvplan's."""
    if "+" in method or method == BASELINE:
        return None
    try:
        return parse_kv_format(method, native).name
    except KvplanError:
        return None


def _failure(option: CacheOption, evidence: Evidence, wishes: Wishes, advice: Advice) -> str | None:
    """Why the measured format must not be used: its own verdict, or the stricter gate of what is asked for here."""
    report = evidence.formats.get(option.format_name)
    if report is None:
        return None
    if report.verdict == "fail":
        return f"{evidence.where}, it fails: {report.reason} ({evidence.source})"
    context = option.result.request.size.context_tokens
    gate = gate_for(advice.gates, gate_kind(option), wishes.quality, context)
    passed = _over(report, gate)
    return None if passed is None else f"{evidence.where}, {passed} ({evidence.source})"


def _over(report: MethodReport, gate: Gate) -> str | None:
    """The first figure whose whole interval lies above the gate, in words."""
    limits = (
        ("perplexity increase", report.perplexity_increase_ratio, gate.perplexity_increase_ratio),
        ("accuracy drop", report.accuracy_drop_ratio, gate.accuracy_drop_ratio),
        ("needle drop", report.needle_drop_ratio, gate.needle_drop_ratio),
    )
    for name, estimate, limit in limits:
        if estimate is not None and limit is not None and estimate.low >= limit:
            return f"its {name} of {100 * estimate.value:.2g}% is not below the {gate.quality} gate of {100 * limit:g}%"
    return None


def _rows(name: str, report: MethodReport, evidence: Evidence, family: str) -> Iterator[QualityRow]:
    """A row for each kind of task that was measured: what it is near to decides which one is shown."""
    measured = (
        ("chat", "perplexity", report.perplexity_increase_ratio, False),
        ("reasoning", "accuracy", report.accuracy_drop_ratio, True),
        ("retrieval", "needle recall", report.needle_drop_ratio, True),
    )
    for task, metric, loss, higher in measured:
        if loss is not None:
            yield QualityRow(
                names=(name,),
                model=evidence.evaluation.model,
                family="" if evidence.of_other_model else family,
                metric=metric,
                task=task,
                source=f"measured: {evidence.source}",
                higher=higher,
                loss_ratio=loss.value,
                note=f"measured, {_interval(loss)}, {report.verdict}",
                measured=True,
            )


def _interval(loss: Estimate) -> str:
    return f"95% interval {100 * loss.low:+.2g}% to {100 * loss.high:+.2g}% worse"
