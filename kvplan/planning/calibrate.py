"""What earlier starts taught, put into a budget."""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.budget import BudgetLine, RankBudget
from kvplan.specs.calibration import Correction


def calibrate_budget(budget: RankBudget, correction: Correction) -> RankBudget:
    """The budget with the correction's bytes added to each line; no line goes below zero."""
    return replace(
        budget,
        activation=_add(budget.activation, correction.activation_bytes),
        cuda_graph=_add(budget.cuda_graph, correction.cuda_graph_bytes),
        non_torch=_add(budget.non_torch, correction.non_torch_bytes),
        explanation=(*budget.explanation, f"calibrated by {correction.num_starts} earlier starts on this device"),
    )


def _add(line: BudgetLine, more: int | None) -> BudgetLine:
    return line if more is None else replace(line, size_bytes=max(0, line.size_bytes + more))
