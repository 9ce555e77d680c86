"""What the pictures share: the margin of a page and its heading."""

from __future__ import annotations

from kvplan.reports.scene import WIDTH, Shape, Text, wrap

EDGE = 28.0
"""Pixels that stay free around a picture."""


def headed(title: str, subtitle: str) -> tuple[list[Shape], float]:
    """The heading of a picture, and the pixel below it."""
    shapes: list[Shape] = []
    bottom = EDGE - 6
    for line in wrap(title, 19 * 1.1, WIDTH - 2 * EDGE, most_lines=2):
        bottom += 24
        shapes.append(Text(x=EDGE, y=bottom, text=line, size=19, bold=True))
    for line in wrap(subtitle, 13, WIDTH - 2 * EDGE, most_lines=2):
        bottom += 20
        shapes.append(Text(x=EDGE, y=bottom, text=line, size=13, fill="muted"))
    return shapes, bottom + 14
