"""A figure to its scene."""

from __future__ import annotations

from kvplan.reports.budget_scene import budget_scene
from kvplan.reports.curve_scene import curve_scene
from kvplan.reports.figures import CurveFigure, Figure
from kvplan.reports.scene import Scene


def draw(figure: Figure) -> Scene:
    """Lay out any figure."""
    return curve_scene(figure) if isinstance(figure, CurveFigure) else budget_scene(figure)
