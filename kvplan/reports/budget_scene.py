"""The layout of a budget figure: one stacked bar for each rank, and a table of its parts that serves as the legend."""

from __future__ import annotations

from kvplan.core.frozen import dataclass
from kvplan.core.units import format_bytes
from kvplan.reports.axes import Scale, linear_byte_scale
from kvplan.reports.figures import BudgetBar, BudgetFigure, Segment, rest_words
from kvplan.reports.page import EDGE, headed
from kvplan.reports.scene import HATCHES, WIDTH, Polyline, Rect, Scene, Shape, Text, hue, shorten, text_width

SMALL, NORMAL = 12.0, 13.0
BAR_HEIGHT, ROW_HEIGHT, LEGEND_HEIGHT = 36.0, 50.0, 24.0


@dataclass(frozen=True, slots=True)
class Lane:
    """Where bars run on the page, in pixels."""

    left: float
    right: float
    top: float
    memory: Scale

    def x(self, size_bytes: float) -> float:
        """The pixel at which so many bytes end."""
        return self.left + self.memory.place(size_bytes) * (self.right - self.left)


def budget_scene(figure: BudgetFigure) -> Scene:
    """Lay out the figure: a bar with its device's memory for each row, the axis, the legend."""
    head, top = headed(figure.title, figure.subtitle)
    lane = _lane(figure, top + 8)
    numbers = {label: index for index, label in enumerate(figure.segment_labels())}
    shapes = [*head]
    for index, row in enumerate(figure.rows):
        shapes += _bar(row, numbers, lane, lane.top + index * ROW_HEIGHT)
    bottom = lane.top + len(figure.rows) * ROW_HEIGHT - (ROW_HEIGHT - BAR_HEIGHT) + 8
    shapes += _axis(lane, bottom)
    legend, bottom = _legend(figure, bottom + 48)
    return Scene(title=figure.title, description=describe_budget(figure), height=bottom + 16, shapes=(*shapes, *legend))


def describe_budget(figure: BudgetFigure) -> str:
    """The figure in words, for those who do not see it."""
    words = [figure.subtitle] if figure.subtitle else []
    for row in figure.rows:
        parts = ", ".join(f"{label} {format_bytes(size)} ({sure})" for label, size, sure in row.segments)
        rest = f", {rest_words(row)}" if rest_words(row) else ""
        words.append(f"{row.label}, {format_bytes(row.total_bytes)}: {parts}{rest}.")
    return " ".join(words)


def size_range(figure: BudgetFigure, label: str) -> str:
    """The bytes of a part over all rows: one figure, or the least and the most."""
    sizes = [size for row in figure.rows if (size := row.bytes_of(label)) is not None]
    return " – ".join(dict.fromkeys((format_bytes(min(sizes)), format_bytes(max(sizes)))))


def _lane(figure: BudgetFigure, top: float) -> Lane:
    labels = [text_width(row.label, NORMAL, bold=True) for row in figure.rows]
    totals = [text_width(format_bytes(row.total_bytes), SMALL) for row in figure.rows]
    rests = [text_width(rest_words(row), SMALL) for row in figure.rows]
    left = EDGE + min(200.0, max(labels + totals)) + 14
    right = WIDTH - EDGE - max(20.0, *rests) - 8
    most = max(max(row.total_bytes, row.used_bytes, 1) for row in figure.rows)
    return Lane(left=left, right=right, top=top, memory=linear_byte_scale(most, max_ticks=9))


def _bar(row: BudgetBar, numbers: dict[str, int], lane: Lane, top: float) -> list[Shape]:
    middle = top + BAR_HEIGHT / 2
    label = shorten(row.label, NORMAL, lane.left - EDGE - 8, bold=True)
    total = format_bytes(row.total_bytes)
    shapes: list[Shape] = [
        Text(x=EDGE, y=middle - 2, text=label, size=NORMAL, bold=True, tip=row.label),
        Text(x=EDGE, y=middle + 14, text=total, size=SMALL, fill="muted"),
        Rect(x=lane.left, y=top, width=lane.x(row.total_bytes) - lane.left, height=BAR_HEIGHT, fill="shade"),
    ]
    end = 0
    for name, size, certainty in row.segments:
        if size:
            spot = lane.x(end), lane.x(end + size), top
            shapes += _segment(Segment(name, size, certainty), numbers[name], spot, lane.x(row.total_bytes))
        end += size
    x = lane.x(row.total_bytes)
    shapes.append(Polyline(points=((x, top - 4), (x, top + BAR_HEIGHT + 4)), stroke="ink", width=2.5))
    after = lane.x(max(row.total_bytes, row.used_bytes)) + 8
    shapes.append(Text(x=after, y=middle + 4, text=rest_words(row), size=SMALL, bold=row.rest_bytes < 0))
    return shapes


def _segment(segment: Segment, index: int, spot: tuple[float, float, float], limit_x: float) -> list[Shape]:
    """A part of a bar, with its name and size where it has room; ``spot`` is its left, right and top."""
    name, size, certainty = segment
    left, right, top = spot
    tip = f"{name}: {format_bytes(size)} ({size:,} bytes), {certainty}"
    shapes: list[Shape] = [
        Rect(
            x=left,
            y=top,
            width=right - left,
            height=BAR_HEIGHT,
            fill=hue(index),
            stroke="paper",
            hatch=index % len(HATCHES),
            tip=tip,
        )
    ]
    room = _label_room(left, right, limit_x)
    width = max(text_width(name, SMALL, bold=True), text_width(format_bytes(size), SMALL)) + 10
    if width + 8 <= room[1] - room[0]:
        shapes += _segment_label(name, size, (room[0] + room[1]) / 2, top, width, hue(index))
    return shapes


def _label_room(left: float, right: float, limit_x: float) -> tuple[float, float]:
    """Where on a segment a label may lie: on the larger side of the device's limit, if that runs through it."""
    if not left < limit_x < right:
        return left, right
    return (left, limit_x - 2) if limit_x - left > right - limit_x else (limit_x + 2, right)


def _segment_label(name: str, size: int, middle: float, top: float, width: float, rim: str) -> list[Shape]:
    ground = Rect(x=middle - width / 2, y=top + 0.5, width=width, height=BAR_HEIGHT - 1, fill="paper", stroke=rim)
    return [
        ground,
        Text(x=middle, y=top + 15, text=name, size=SMALL, anchor="middle", bold=True),
        Text(x=middle, y=top + 29, text=format_bytes(size), size=SMALL, anchor="middle"),
    ]


def _axis(lane: Lane, y: float) -> list[Shape]:
    shapes: list[Shape] = [Polyline(points=((lane.left, y), (lane.right, y)), stroke="muted")]
    for tick, label in zip(lane.memory.ticks, lane.memory.labels):
        x = lane.x(tick)
        shapes.append(Polyline(points=((x, y), (x, y + 5)), stroke="muted"))
        shapes.append(Text(x=x, y=y + 19, text=label, size=SMALL, fill="muted", anchor="middle"))
    return shapes


def _legend(figure: BudgetFigure, top: float) -> tuple[list[Shape], float]:
    """A line for each part: swatch, name, bytes, how the bytes are known; and the pixel below the last."""
    labels = figure.segment_labels()
    name_room = min(300.0, max(text_width(label, NORMAL, bold=True) for label in labels)) + 24 if labels else 0
    size_room = max((text_width(size_range(figure, label), NORMAL) for label in labels), default=0.0)
    left = EDGE + 40
    shapes: list[Shape] = []
    for index, label in enumerate(labels):
        y = top + index * LEGEND_HEIGHT
        swatch = index % len(HATCHES)
        name = shorten(label, NORMAL, name_room - 12, bold=True)
        size_end = left + name_room + size_room
        shapes.append(Rect(x=EDGE, y=y - 12, width=28, height=16, fill=hue(index), hatch=swatch))
        shapes.append(Text(x=left, y=y, text=name, size=NORMAL, bold=True, tip=label))
        shapes.append(Text(x=size_end, y=y, text=size_range(figure, label), size=NORMAL, anchor="end"))
        room = WIDTH - EDGE - size_end - 24
        sure = figure.certainty_of(label)
        text = shorten(sure, NORMAL, room)
        shapes.append(Text(x=size_end + 24, y=y, text=text, size=NORMAL, fill="muted", tip=sure))
    return shapes, top + len(labels) * LEGEND_HEIGHT
