"""The pictures of an evaluation: needles by length and depth, and quality against memory with its Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvplan.core.evaluation import Evaluation, MethodReport
from kvplan.planning.pareto import pareto_front
from kvplan.reports.evaluate_rows import share
from kvplan.reports.figures import Figure, HeatFigure, HeatPanel, TradeFigure, TradePoint


def evaluation_figures(found: Evaluation) -> tuple[Figure, ...]:
    """What can be drawn of what was measured, in reading order; empty where nothing can."""
    figures: list[Figure] = list(_trades(found))
    if (needles := needle_figure(found)) is not None:
        figures.append(needles)
    return tuple(figures)


def needle_figure(found: Evaluation) -> HeatFigure | None:
    """One map for the baseline and for each method; None where no needle was looked for."""
    reports = [report for report in (found.baseline, *found.methods) if report.needle_grid]
    if not reports:
        return None
    panels = tuple(HeatPanel(report.method, dict(report.needle_grid), _summary(report)) for report in reports)
    return HeatFigure(title=f"{found.model}: needles found", subtitle=_where(found), panels=panels)


def _trades(found: Evaluation) -> Iterator[TradeFigure]:
    """Quality against memory, by divergence (or perplexity) and by needles, as far as they were measured."""
    divergence = _trade(found, "mean KL divergence in nats", lambda report: _value(report, "kld_mean"), True)
    if divergence is None:
        loss = "perplexity increase"
        divergence = _trade(found, loss, lambda report: _value(report, "perplexity_increase_ratio"), False)
    needles = _trade(found, "needles lost", _needles_lost, False)
    yield from (figure for figure in (divergence, needles) if figure is not None)


def _trade(
    found: Evaluation, label: str, loss_of: Callable[[MethodReport], float | None], logarithmic: bool
) -> TradeFigure | None:
    offers = [
        (report, report.memory_ratio, loss)
        for report in found.methods
        if report.memory_ratio is not None and (loss := loss_of(report)) is not None
    ]
    if not offers:
        return None
    losses = [(memory, max(loss, 0.0)) for _, memory, loss in offers]
    points = tuple(
        TradePoint(report.method, memory, loss, report.verdict, best)
        for (report, _, _), (memory, loss), best in zip(offers, losses, pareto_front(losses))
    )
    title = f"{found.model}: {label.partition(' in ')[0]} against memory"
    return TradeFigure(title=title, subtitle=_where(found), loss_label=label, points=points, logarithmic=logarithmic)


def _value(report: MethodReport, name: str) -> float | None:
    estimate = getattr(report, name)
    return None if estimate is None else float(estimate.value)


def _needles_lost(report: MethodReport) -> float | None:
    recall = report.needle_recall_ratio
    return None if recall is None else 1 - recall.value


def _summary(report: MethodReport) -> str:
    recall = report.needle_recall_ratio
    return "" if recall is None else share(recall.value)


def _where(found: Evaluation) -> str:
    """Context and setting, as far as they are known."""
    words = [found.device]
    words += [f"{name.replace('_', '-')} {found.settings[name]}" for name in _SHOWN if found.settings.get(name)]
    return " · ".join(words)


_SHOWN = ("ctx", "dtype", "question_aware")
