"""What a picture shows, free of any drawing: curves of formats, budgets of ranks, heat maps, quality against memory.

Every number in a figure is computed before it gets here. Points, marks and segments are named tuples, so that plain
tuples do as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, pairwise
from typing import NamedTuple

from kvplan.core.frozen import dataclass
from kvplan.core.units import format_bytes


class Point(NamedTuple):
    """Memory at a context: ``tokens`` of context, ``size_bytes`` of memory."""

    tokens: int
    size_bytes: int


class Mark(NamedTuple):
    """A point that is pointed at with words, such as the context that was asked for."""

    label: str
    tokens: int
    size_bytes: int


class Segment(NamedTuple):
    """A part of a budget: what it is, its bytes, and how the figure is known (exact, rule or estimate)."""

    label: str
    size_bytes: int
    certainty: str


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a curve figure, such as one cache format; points by growing context, straight lines between them."""

    label: str
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        contexts = [tokens for tokens, _ in self.points]
        if not contexts or contexts[0] < 1 or any(left >= right for left, right in pairwise(contexts)):
            raise ValueError(f"series {self.label!r} needs points of growing, positive context")


@dataclass(frozen=True, slots=True)
class CurveFigure:
    """Memory against context: one line for each cache format, and what the device holds.

    ``limit_bytes`` is None where no device was asked about.
    """

    title: str
    subtitle: str
    series: tuple[Series, ...]
    limit_bytes: int | None = None
    limit_label: str = ""
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        if not self.series:
            raise ValueError("a curve figure needs a series")

    def contexts(self) -> list[int]:
        """Every context at which any series has a point, in tokens, growing."""
        return sorted({tokens for series in self.series for tokens, _ in series.points})

    def all_tokens(self) -> list[int]:
        """The contexts that the picture has to cover: of points and of marks."""
        return [*self.contexts(), *(tokens for _, tokens, _ in self.marks)]

    def all_bytes(self) -> list[int]:
        """The memory that the picture has to cover: of points, of marks and of the limit."""
        points = chain.from_iterable(series.points for series in self.series)
        limit = [] if self.limit_bytes is None else [self.limit_bytes]
        return [size for _, size in points] + [size for _, _, size in self.marks] + limit

    def limit_words(self) -> str:
        """``H100: 79.18 GiB``; empty without a limit."""
        if self.limit_bytes is None:
            return ""
        size = format_bytes(self.limit_bytes)
        return f"{self.limit_label}: {size}" if self.limit_label else size


@dataclass(frozen=True, slots=True)
class BudgetBar:
    """The memory of one rank, or of several that are alike: its parts in order, and what the device has."""

    label: str
    segments: tuple[Segment, ...]
    total_bytes: int

    @property
    def used_bytes(self) -> int:
        """The sum of the segments; above ``total_bytes`` where the plan does not fit."""
        return sum(size for _, size, _ in self.segments)

    @property
    def rest_bytes(self) -> int:
        """What no segment takes; negative where the plan does not fit."""
        return self.total_bytes - self.used_bytes

    def bytes_of(self, label: str) -> int | None:
        """The bytes of the segments with this label; None where the bar has none."""
        sizes = [size for name, size, _ in self.segments if name == label]
        return sum(sizes) if sizes else None


@dataclass(frozen=True, slots=True)
class BudgetFigure:
    """Where the memory of every rank goes: one stacked bar for each row."""

    title: str
    rows: tuple[BudgetBar, ...]
    subtitle: str = ""

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a budget figure needs a row")

    def segment_labels(self) -> list[str]:
        """The names of all segments, each once, in the order in which bars stack them."""
        return list(dict.fromkeys(label for row in self.rows for label, _, _ in row.segments))

    def certainty_of(self, segment_label: str) -> str:
        """How the figures of these segments are known; several words where rows differ."""
        found = [sure for row in self.rows for label, _, sure in row.segments if label == segment_label]
        return ", ".join(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class HeatPanel:
    """One map of a heat figure: the share in each cell, by (tokens of context, depth between 0 and 1).

    ``summary`` is the share over all cells in words.
    """

    label: str
    cells: Mapping[tuple[int, float], float]
    summary: str = ""

    @property
    def lengths(self) -> list[int]:
        """The columns, growing."""
        return sorted({length for length, _ in self.cells})

    @property
    def depths(self) -> list[float]:
        """The rows, growing."""
        return sorted({depth for _, depth in self.cells})


@dataclass(frozen=True, slots=True)
class HeatFigure:
    """Needles found by length and depth: one map for each method."""

    title: str
    subtitle: str
    panels: tuple[HeatPanel, ...]

    def __post_init__(self) -> None:
        if not any(panel.cells for panel in self.panels):
            raise ValueError("a heat figure needs a map with cells")


class TradePoint(NamedTuple):
    """A method: its memory beside the uncompressed cache's, its loss, its verdict, and whether nothing beats both."""

    label: str
    memory_ratio: float
    loss: float
    verdict: str
    on_front: bool


@dataclass(frozen=True, slots=True)
class TradeFigure:
    """Quality against memory: one point for each method; ``logarithmic`` is the axis of the loss."""

    title: str
    subtitle: str
    loss_label: str
    points: tuple[TradePoint, ...]
    logarithmic: bool

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a trade figure needs a point")

    def front(self) -> list[TradePoint]:
        """The points that nothing beats in both, by growing memory."""
        return sorted((point for point in self.points if point.on_front), key=lambda point: point.memory_ratio)


Figure = CurveFigure | BudgetFigure | HeatFigure | TradeFigure


def rest_words(bar: BudgetBar) -> str:
    """``0.40 GiB left`` or ``3.10 GiB too much``: the bar against its device; empty where it is filled to the byte."""
    if bar.rest_bytes == 0:
        return ""
    size = format_bytes(abs(bar.rest_bytes))
    return f"{size} left" if bar.rest_bytes > 0 else f"{size} too much"
