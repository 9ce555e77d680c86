"""A figure to its scene."""

from __future__ import annotations

from kvplan.reports.budget_scene import budget_scene
from kvplan.reports.curve_scene import curve_scene
from kvplan.reports.figures import BudgetFigure, CurveFigure, Figure, HeatFigure
from kvplan.reports.heat_scene import heat_scene
from kvplan.reports.scene import Scene
from kvplan.reports.trade_scene import trade_scene


def draw(figure: Figure) -> Scene:
    """Lay out any figure."""
    if isinstance(figure, CurveFigure):
        return curve_scene(figure)
    if isinstance(figure, BudgetFigure):
        return budget_scene(figure)
    return heat_scene(figure) if isinstance(figure, HeatFigure) else trade_scene(figure)
