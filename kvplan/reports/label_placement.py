"""Where labels go so that they neither overlap nor leave the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in pixels that a label covers."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in the box."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, ``distance`` apart and, where that can be, in [low, high]."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    clusters: list[list[float]] = []  # wanted places of labels that touch, each less what precedes it in its cluster
    for index in order:
        clusters.append([min(max(wanted[index], low), high)])
        while len(clusters) > 1 and _end(clusters[-2], distance) > _start(clusters[-1]):
            last = clusters.pop()
            offset = len(clusters[-1]) * distance
            clusters[-1] += [place - offset for place in last]
    stacked = [_start(cluster) + step * distance for cluster in clusters for step in range(len(cluster))]
    places = _inside(stacked, distance, low, high)
    return [places[order.index(index)] for index in range(len(wanted))]


def choose_box(candidates: Iterable[Box], page: Box, taken: Sequence[Box], drawn: Sequence[tuple[float, float]]) -> Box:
    """The candidate that covers least of other labels and of what is drawn; the earlier of equals.

    ``drawn`` are points along lines; what lies off the page or on another label weighs more than any line.
    """

    def cost(box: Box) -> float:
        """How much a label in this place hides, or loses itself."""
        area = (box.right - box.left) * (box.bottom - box.top)
        hidden = area - box.overlap(page) + sum(map(box.overlap, taken))
        return 100 * hidden + sum(box.holds(x, y) for x, y in drawn)

    return min(candidates, key=cost)


def choose_box_beside(
    spot: tuple[float, float],
    size: tuple[float, float],
    page: Box,
    taken: Sequence[Box],
    drawn: Sequence[tuple[float, float]],
) -> Box:
    """Where a label of this width and height goes that points at ``spot``: near, with a leader that crosses nothing."""

    def clear(box: Box) -> bool:
        """Whether the leader crosses neither a label nor a line, other than the line that the spot lies on."""
        far = [place for place in leader(box, spot) if math.dist(place, spot) > 12]
        crossed = any(math.dist(point, place) < 5 for point in drawn for place in far)
        return not crossed and not any(other.holds(*place) for other in taken for place in far)

    boxes = _boxes_around(*spot, *size)
    chosen = choose_box([box for box in boxes if clear(box)] or boxes, page, taken, drawn)
    return choose_box(boxes, page, taken, drawn) if _blocked(chosen, page, taken) else chosen


def points_along(path: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points on a path, some pixels apart."""
    spots = list(path[:1])
    for (x0, y0), (x1, y1) in pairwise(path):
        steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0)) / 6))
        spots += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps + 1)]
    return spots


def leader(box: Box, spot: tuple[float, float]) -> list[tuple[float, float]]:
    """Points along the straight line from a spot to the label that points at it."""
    (x0, y0), (x1, y1) = spot, nearest(box, spot)
    return [(x0 + (x1 - x0) * step / 12, y0 + (y1 - y0) * step / 12) for step in range(13)]


def nearest(box: Box, spot: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that is nearest to a spot."""
    x, y = spot
    return min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)


def _blocked(box: Box, page: Box, taken: Sequence[Box]) -> bool:
    area = (box.right - box.left) * (box.bottom - box.top)
    return box.overlap(page) < area - 1 or any(map(box.overlap, taken))


def _boxes_around(x: float, y: float, width: float, height: float) -> list[Box]:
    """Boxes beside a point, nearest first: to the right, to the left and over it, above before below."""
    boxes = []
    for gap in (10.0, 24.0, 42.0, 64.0, 90.0):
        for top in (y - gap - height, y + gap):
            for left in (x + 6, x - 6 - width, x - width / 2):
                boxes.append(Box(left, top, left + width, top + height))
    return boxes


def _start(cluster: list[float]) -> float:
    return sum(cluster) / len(cluster)


def _end(cluster: list[float], distance: float) -> float:
    return _start(cluster) + len(cluster) * distance


def _inside(places: list[float], distance: float, low: float, high: float) -> list[float]:
    for index in range(len(places)):
        floor = low if index == 0 else places[index - 1] + distance
        places[index] = max(places[index], floor)
    for index in reversed(range(len(places))):
        ceiling = high if index == len(places) - 1 else places[index + 1] - distance
        places[index] = min(places[index], ceiling)
    return places
