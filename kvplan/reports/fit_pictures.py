"""Fit's pictures from its results: curves of memory against context, and the stacked budget of a rank."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.fit import FitResult
from kvplan.reports.figures import BudgetBar, BudgetFigure, CurveFigure, Point, Segment, Series
from kvplan.reports.fit_rows import BUDGET_LINES, fit_headline, stage_words

Curves = Sequence[tuple[str, Sequence[tuple[int, int]]]]


def curve_figure(result: FitResult, curves: Curves) -> CurveFigure:
    """Memory of a rank against the context of the asked requests, one line for each cache format."""
    budget = result.fullest
    requests = result.request.size.concurrency
    return CurveFigure(
        title=f"{result.model.name}: memory of a rank by context",
        subtitle=f"{fit_headline(result)} · weights, overhead and the cache of {requests:,} requests",
        series=tuple(
            Series(name, tuple(Point(tokens, size) for tokens, size in points)) for name, points in curves if points
        ),
        limit_bytes=budget.requested_bytes,
        limit_label=f"{result.engine} takes of {result.request.accelerator.name}",
    )


def budget_figure(result: FitResult) -> BudgetFigure:
    """Where the memory of each stage's rank goes."""
    rows = []
    for words, budget in zip(stage_words(result), result.budgets):
        lines = [(label, getattr(budget, name)) for name, label, _ in BUDGET_LINES]
        segments = tuple(Segment(label, line.size_bytes, line.certainty) for label, line in lines if line.size_bytes)
        rows.append(BudgetBar(words, segments, budget.memory_bytes))
    return BudgetFigure(
        title=f"{result.model.name}: where every byte goes",
        rows=tuple(rows),
        subtitle=fit_headline(result),
    )
