"""The layout of a curve figure: memory against context, one labelled line for each format, the limit as a shore."""

from __future__ import annotations

from kvplan.core.units import format_bytes, format_tokens
from kvplan.reports.axes import Frame, memory_scale, token_scale
from kvplan.reports.figures import CurveFigure, Series
from kvplan.reports.label_placement import Box, choose_box, choose_box_beside, leader, nearest, points_along, spread
from kvplan.reports.page import EDGE, headed
from kvplan.reports.scene import (
    DASHES,
    WIDTH,
    Circle,
    Polyline,
    Rect,
    Scene,
    Shape,
    Text,
    hue,
    marker,
    shorten,
    text_width,
)

SMALL, NORMAL = 12.0, 13.0
PLOT_HEIGHT = 380.0
LABEL_DISTANCE = 35.0
"""Pixels between the labels of two lines: each label has two lines of text."""


def curve_scene(figure: CurveFigure) -> Scene:
    """Lay out the figure: axes, limit, lines with their labels, marks."""
    head, top = headed(figure.title, figure.subtitle)
    frame = _frame(figure, top + 22)
    paths = [tuple(frame.at(*point) for point in series.points) for series in figure.series]
    drawn = [spot for path in paths for spot in points_along(path)]
    taken: list[Box] = []
    shapes = [*head, *_limit_area(figure, frame), *_axes(frame)]
    for index, path in enumerate(paths):
        shapes.append(Polyline(points=path, stroke=hue(index), width=2.4, dash=DASHES[index % len(DASHES)]))
    shapes += _limit_line(figure, frame, drawn, taken)
    for index, (series, path) in enumerate(zip(figure.series, paths)):
        shapes += [marker(index, x, y, _tip(series, i)) for i, (x, y) in enumerate(path)]
    shapes += _line_labels(figure, frame, paths)
    shapes += _marks(figure, frame, drawn, taken)
    return Scene(
        title=figure.title, description=describe_curves(figure), height=frame.bottom + 52, shapes=tuple(shapes)
    )


def describe_curves(figure: CurveFigure) -> str:
    """The figure in words, for those who do not see it."""
    words = [figure.subtitle] if figure.subtitle else []
    words.append("Memory against context.")
    for series in figure.series:
        first, last = series.points[0], series.points[-1]
        start = f"{format_bytes(first[1])} at {format_tokens(first[0])} tokens"
        words.append(f"{series.label}: {start}, {format_bytes(last[1])} at {format_tokens(last[0])} tokens.")
    if figure.limit_bytes is not None:
        words.append(f"Limit {figure.limit_words()}.")
    words += [f"{label}: {format_bytes(size)} at {tokens:,} tokens." for label, tokens, size in figure.marks]
    return " ".join(words)


def _frame(figure: CurveFigure, top: float) -> Frame:
    height = max(PLOT_HEIGHT, LABEL_DISTANCE * len(figure.series))
    memory = memory_scale(figure, max_ticks=12)
    left = EDGE + max(text_width(label, SMALL) for label in memory.labels) + 10
    labels = [text_width(series.label, NORMAL, bold=True) for series in figure.series]
    values = [text_width(_end_value(series), SMALL) for series in figure.series]
    right = WIDTH - EDGE - 34 - min(250.0, max(labels + values))
    tokens = token_scale(figure.all_tokens(), max_ticks=12)
    return Frame(left=left, top=top, right=right, bottom=top + height, across=tokens, upward=memory)


def _axes(frame: Frame) -> list[Shape]:
    shapes: list[Shape] = []
    for tick, label in zip(frame.upward.ticks, frame.upward.labels):
        _, y = frame.at(frame.across.high, tick)
        shapes.append(Polyline(points=((frame.left, y), (frame.right, y)), stroke="grid"))
        shapes.append(Text(x=frame.left - 8, y=y + 4, text=label, size=SMALL, fill="muted", anchor="end"))
    for tick, label in zip(frame.across.ticks, frame.across.labels):
        x, _ = frame.at(tick, frame.upward.high)
        shapes.append(Polyline(points=((x, frame.bottom), (x, frame.bottom + 5)), stroke="muted"))
        shapes.append(Text(x=x, y=frame.bottom + 20, text=label, size=SMALL, fill="muted", anchor="middle"))
    shapes.append(Polyline(points=((frame.left, frame.bottom), (frame.right, frame.bottom)), stroke="muted"))
    middle = (frame.left + frame.right) / 2
    caption = "context in tokens"
    shapes.append(Text(x=middle, y=frame.bottom + 40, text=caption, size=SMALL, fill="muted", anchor="middle"))
    shapes.append(Text(x=EDGE, y=frame.top - 12, text="memory", size=SMALL, fill="muted"))
    return shapes


def _limit_area(figure: CurveFigure, frame: Frame) -> list[Shape]:
    if figure.limit_bytes is None:
        return []
    _, y = frame.at(frame.across.high, figure.limit_bytes)
    return [Rect(x=frame.left, y=frame.top, width=frame.right - frame.left, height=y - frame.top, fill="shade")]


def _limit_line(figure: CurveFigure, frame: Frame, drawn: list[tuple[float, float]], taken: list[Box]) -> list[Shape]:
    """The limit and its label, where the label hides least; the label's place is added to ``taken``."""
    if figure.limit_bytes is None:
        return []
    _, y = frame.at(frame.across.high, figure.limit_bytes)
    words = shorten(figure.limit_words(), NORMAL, frame.right - frame.left - 16, bold=True)
    width, room = text_width(words, NORMAL, bold=True), frame.right - frame.left - 16
    lefts = [frame.left + 8 + (room - width) * step / 6 for step in range(7)]
    boxes = [Box(left, top, left + width, top + 17) for top in (y - 22, y + 5) for left in lefts]
    box = choose_box(boxes, _page(frame), taken, drawn)
    taken.append(box)
    return [
        Polyline(points=((frame.left, y), (frame.right, y)), stroke="ink", width=2),
        Text(
            x=box.left,
            y=box.bottom - 4,
            text=words,
            size=NORMAL,
            bold=True,
            halo=_ground(figure, frame, box),
            tip=figure.limit_words(),
        ),
    ]


def _line_labels(figure: CurveFigure, frame: Frame, paths: list[tuple[tuple[float, float], ...]]) -> list[Shape]:
    """A label beside the end of each line: its marker, its name, its last value; a leader where it had to move."""
    ends = [path[-1] for path in paths]
    places = spread([y for _, y in ends], LABEL_DISTANCE, frame.top + 6, frame.bottom - 10)
    shapes: list[Shape] = []
    for index, (series, (x, y), place) in enumerate(zip(figure.series, ends, places)):
        left = frame.right + 14
        if abs(place - y) > 3 or x < frame.right - 1:
            shapes.append(Polyline(points=((x + 6, y), (left, place)), stroke=hue(index), width=1))
        shapes.append(marker(index, left + 6, place))
        name = shorten(series.label, NORMAL, WIDTH - EDGE / 2 - left - 16, bold=True)
        shapes.append(Text(x=left + 16, y=place + 4, text=name, size=NORMAL, bold=True, tip=series.label))
        shapes.append(Text(x=left + 16, y=place + 19, text=_end_value(series), size=SMALL, fill="muted"))
    return shapes


def _marks(figure: CurveFigure, frame: Frame, drawn: list[tuple[float, float]], taken: list[Box]) -> list[Shape]:
    """A ring at each mark, its words nearby; both are added to what later labels keep clear of."""
    shapes: list[Shape] = []
    spots = [frame.at(tokens, size) for _, tokens, size in figure.marks]
    taken += [Box(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    for (label, tokens, size), (x, y) in zip(figure.marks, spots):
        words = shorten(label, SMALL, frame.right - frame.left - 20)
        box = choose_box_beside((x, y), (text_width(words, SMALL), 15), _page(frame), taken, drawn)
        taken.append(box)
        tip = f"{label}: {format_bytes(size)} at {tokens:,} tokens"
        drawn += leader(box, (x, y))
        shapes.append(Polyline(points=((x, y), nearest(box, (x, y))), stroke="ink"))
        shapes.append(Circle(x=x, y=y, radius=6, fill="paper", stroke="ink", tip=tip))
        shapes.append(_text_in(box, x, words, tip, _ground(figure, frame, box)))
    return shapes


def _text_in(box: Box, x: float, words: str, tip: str, ground: str) -> Text:
    """Text in a box, flush with the side that faces ``x``, whatever the width of the reader's font."""
    anchor, at = "middle", (box.left + box.right) / 2
    if box.right <= x:
        anchor, at = "end", box.right
    elif box.left >= x:
        anchor, at = "start", box.left
    return Text(x=at, y=box.bottom - 3, text=words, size=SMALL, anchor=anchor, halo=ground, tip=tip)


def _ground(figure: CurveFigure, frame: Frame, box: Box) -> str:
    """The ink behind a label: above the limit it is shaded."""
    if figure.limit_bytes is None:
        return "paper"
    return "shade" if (box.top + box.bottom) / 2 < frame.at(frame.across.high, figure.limit_bytes)[1] else "paper"


def _page(frame: Frame) -> Box:
    """Where labels in the plot may lie."""
    return Box(frame.left + 2, frame.top + 2, frame.right - 2, frame.bottom - 2)


def _end_value(series: Series) -> str:
    return format_bytes(series.points[-1][1])


def _tip(series: Series, index: int) -> str:
    tokens, size = series.points[index]
    return f"{series.label}: {format_bytes(size)} ({size:,} bytes) at {format_tokens(tokens)} tokens"
