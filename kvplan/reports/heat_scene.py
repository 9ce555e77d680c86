"""The layout of a heat figure: a map for each method, lengths across, depths down, the share in each cell."""

from __future__ import annotations

from kvplan.core.units import format_tokens
from kvplan.reports.figures import HeatFigure, HeatPanel
from kvplan.reports.page import EDGE, headed
from kvplan.reports.scene import HEAT, WIDTH, Rect, Scene, Shape, Text, heat, shorten, text_width

SMALL, NORMAL = 12.0, 13.0
CELL_HEIGHT, GAP, DEPTH_ROOM = 26.0, 26.0, 40.0
MOST_ACROSS = 3


def heat_scene(figure: HeatFigure) -> Scene:
    """Lay out the figure: the legend, then the maps in rows."""
    head, top = headed(figure.title, figure.subtitle)
    legend, top = _legend(top)
    shapes = [*head, *legend]
    panels = [panel for panel in figure.panels if panel.cells]
    across = min(MOST_ACROSS, len(panels))
    width = (WIDTH - 2 * EDGE - (across - 1) * GAP) / across
    for start in range(0, len(panels), across):
        row = panels[start : start + across]
        for index, panel in enumerate(row):
            shapes += _panel(panel, EDGE + index * (width + GAP), top, width)
        top += 56 + CELL_HEIGHT * max(len(panel.depths) for panel in row)
    return Scene(title=figure.title, description=describe_heat(figure), height=top + 8, shapes=tuple(shapes))


def describe_heat(figure: HeatFigure) -> str:
    """The figure in words, for those who do not see it."""
    words = [figure.subtitle] if figure.subtitle else []
    for panel in figure.panels:
        shares = ", ".join(
            f"{100 * share:.0f}% at {format_tokens(length)} tokens and depth {100 * depth:.0f}%"
            for (length, depth), share in sorted(panel.cells.items())
        )
        words.append(f"{panel.label}: {shares}.")
    return " ".join(words)


def _legend(top: float) -> tuple[list[Shape], float]:
    """From nothing to everything, and what the axes are; the pixel below."""
    shapes: list[Shape] = [Text(x=EDGE, y=top + 13, text="found: 0%", size=SMALL, fill="muted")]
    left = EDGE + 72
    for level in range(len(HEAT)):
        shapes.append(Rect(x=left + 26 * level, y=top + 2, width=26, height=14, fill=f"heat{level}"))
    after = left + 26 * len(HEAT) + 8
    words = "100% · across: context in tokens · down: depth of the needle, 0% is the oldest text"
    shapes.append(Text(x=after, y=top + 13, text=words, size=SMALL, fill="muted"))
    return shapes, top + 30


def _panel(panel: HeatPanel, left: float, top: float, width: float) -> list[Shape]:
    """The method's name, the map, its two axes."""
    room = width - text_width(panel.summary, NORMAL) - 8
    name = shorten(panel.label, NORMAL, room, bold=True)
    shapes: list[Shape] = [Text(x=left, y=top + 14, text=name, size=NORMAL, bold=True, tip=panel.label)]
    if panel.summary:
        shapes.append(Text(x=left + width, y=top + 14, text=panel.summary, size=NORMAL, anchor="end"))
    cell = (width - DEPTH_ROOM) / len(panel.lengths)
    first = top + 24
    for row, depth in enumerate(panel.depths):
        y = first + row * CELL_HEIGHT
        label = f"{100 * depth:.0f}%"
        shapes.append(Text(x=left + DEPTH_ROOM - 6, y=y + 17, text=label, size=SMALL, fill="muted", anchor="end"))
        for column, length in enumerate(panel.lengths):
            share = panel.cells.get((length, depth))
            if share is not None:
                tip = f"{panel.label}: {100 * share:.0f}% at {format_tokens(length)} tokens, depth {label}"
                shapes += _cell(share, left + DEPTH_ROOM + column * cell, y, cell, tip)
    bottom = first + CELL_HEIGHT * len(panel.depths)
    for column, length in enumerate(panel.lengths):
        x = left + DEPTH_ROOM + (column + 0.5) * cell
        words = format_tokens(length)
        shapes.append(Text(x=x, y=bottom + 16, text=words, size=SMALL, fill="muted", anchor="middle"))
    return shapes


def _cell(share: float, left: float, top: float, width: float, tip: str) -> list[Shape]:
    fill, ink = heat(share)
    return [
        Rect(x=left, y=top, width=width, height=CELL_HEIGHT, fill=fill, stroke="paper", tip=tip),
        Text(x=left + width / 2, y=top + 17, text=f"{100 * share:.0f}", size=SMALL, fill=ink, anchor="middle", tip=tip),
    ]
