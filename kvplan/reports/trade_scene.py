"""The layout of a trade figure: loss against memory, a labelled point for each method, the Pareto front as a line."""

from __future__ import annotations

from kvplan.planning.quality_gates import percent
from kvplan.reports.axes import Frame, Scale, decade_scale, ratio_scale
from kvplan.reports.evaluate_rows import small
from kvplan.reports.figures import TradeFigure, TradePoint
from kvplan.reports.label_placement import Box, choose_box_beside, leader, nearest, points_along
from kvplan.reports.page import EDGE, headed
from kvplan.reports.scene import WIDTH, Circle, Polygon, Polyline, Scene, Shape, Text, shorten, text_width

SMALL, NORMAL = 12.0, 13.0
PLOT_HEIGHT = 340.0
Spot = tuple[float, float]
VERDICT_INKS = {"pass": "hue2", "inconclusive": "hue4", "fail": "hue1"}


def trade_scene(figure: TradeFigure) -> Scene:
    """Lay out the figure: axes, front, points with their labels, the legend of verdicts."""
    head, top = headed(figure.title, figure.subtitle)
    legend, top = _legend(figure, top)
    frame = _frame(figure, top + 28)
    spots: list[Spot] = [frame.at(point.memory_ratio, point.loss) for point in figure.points]
    front = tuple(frame.at(point.memory_ratio, point.loss) for point in figure.front())
    shapes = [*head, *legend, *_axes(figure, frame)]
    if len(front) > 1:
        shapes.append(Polyline(points=front, stroke="muted", width=1.6, dash=(6, 4)))
    shapes += [_sign(point, spot) for point, spot in zip(figure.points, spots)]
    shapes += _labels(figure, frame, spots, points_along(front))
    return Scene(title=figure.title, description=describe_trade(figure), height=frame.bottom + 52, shapes=tuple(shapes))


def describe_trade(figure: TradeFigure) -> str:
    """The figure in words, for those who do not see it."""
    words = [figure.subtitle] if figure.subtitle else []
    for point in figure.points:
        front = ", on the Pareto front" if point.on_front else ""
        words.append(f"{tip_words(figure, point)}{front}.")
    return " ".join(words)


def tip_words(figure: TradeFigure, point: TradePoint) -> str:
    """A method with its memory, its loss and its verdict."""
    loss = loss_words(figure, point.loss)
    return f"{point.label}: {point.memory_ratio:.2f}x memory, {figure.loss_label} {loss}, {point.verdict}"


def loss_words(figure: TradeFigure, loss: float) -> str:
    """A divergence in nats, or a share in percent."""
    return small(loss) if figure.logarithmic else percent(loss)


def _frame(figure: TradeFigure, top: float) -> Frame:
    losses = [point.loss for point in figure.points]
    loss = decade_scale(losses) if figure.logarithmic else ratio_scale(max(*losses, 0.01), max_ticks=9)
    if not figure.logarithmic:
        loss = Scale(loss.low, loss.high, loss.ticks, tuple(f"{100 * tick:g}%" for tick in loss.ticks), False)
    memory = ratio_scale(max(1.0, *(point.memory_ratio for point in figure.points)), max_ticks=11)
    left = EDGE + max(text_width(label, SMALL) for label in loss.labels) + 10
    return Frame(left=left, top=top, right=WIDTH - EDGE - 8, bottom=top + PLOT_HEIGHT, across=memory, upward=loss)


def _axes(figure: TradeFigure, frame: Frame) -> list[Shape]:
    shapes: list[Shape] = []
    for tick, label in zip(frame.upward.ticks, frame.upward.labels):
        _, y = frame.at(0, tick)
        shapes.append(Polyline(points=((frame.left, y), (frame.right, y)), stroke="grid"))
        shapes.append(Text(x=frame.left - 8, y=y + 4, text=label, size=SMALL, fill="muted", anchor="end"))
    for tick, label in zip(frame.across.ticks, frame.across.labels):
        x, _ = frame.at(tick, frame.upward.high)
        shapes.append(Polyline(points=((x, frame.bottom), (x, frame.bottom + 5)), stroke="muted"))
        shapes.append(Text(x=x, y=frame.bottom + 20, text=label, size=SMALL, fill="muted", anchor="middle"))
    shapes.append(Polyline(points=((frame.left, frame.bottom), (frame.right, frame.bottom)), stroke="muted"))
    middle, below = (frame.left + frame.right) / 2, frame.bottom + 40
    caption = "memory beside the uncompressed cache's (less is better)"
    shapes.append(Text(x=middle, y=below, text=caption, size=SMALL, fill="muted", anchor="middle"))
    loss = f"{figure.loss_label} (less is better)"
    shapes.append(Text(x=EDGE, y=frame.top - 12, text=loss, size=SMALL, fill="muted"))
    return shapes


def _legend(figure: TradeFigure, top: float) -> tuple[list[Shape], float]:
    """The signs of the verdicts and the front's line; the pixel below."""
    shapes: list[Shape] = []
    left = EDGE + 6
    for verdict in VERDICT_INKS:
        shapes.append(_sign(TradePoint("", 0, 0, verdict, False), (left, top + 8)))
        shapes.append(Text(x=left + 12, y=top + 12, text=verdict, size=SMALL, fill="muted"))
        left += 36 + text_width(verdict, SMALL)
    if len(figure.front()) > 1:
        shapes.append(Polyline(points=((left, top + 8), (left + 30, top + 8)), stroke="muted", width=1.6, dash=(6, 4)))
        words = "Pareto front: nothing else is better in both"
        shapes.append(Text(x=left + 38, y=top + 12, text=words, size=SMALL, fill="muted"))
    return shapes, top + 20


def _sign(point: TradePoint, spot: tuple[float, float]) -> Shape:
    """A circle for what passes, a triangle for what is open, a cross for what fails."""
    (x, y), ink = spot, VERDICT_INKS[point.verdict]
    if point.verdict == "pass":
        return Circle(x=x, y=y, radius=6, fill=ink, tip=point.label)
    if point.verdict == "inconclusive":
        corners: tuple[tuple[float, float], ...] = ((0.0, -7.0), (7.0, 5.0), (-7.0, 5.0))
    else:
        near, far = 2.0, 6.5
        corners = _cross(near, far)
    return Polygon(points=tuple((x + dx, y + dy) for dx, dy in corners), fill=ink, tip=point.label)


def _cross(near: float, far: float) -> tuple[tuple[float, float], ...]:
    """An X: from the notch at the top, clockwise."""
    return (
        *((0.0, -near), (far - near, -far), (far, -far + near), (near, 0.0)),
        *((far, far - near), (far - near, far), (0.0, near), (-far + near, far)),
        *((-far, far - near), (-near, 0.0), (-far, -far + near), (-far + near, -far)),
    )


def _labels(figure: TradeFigure, frame: Frame, spots: list[Spot], drawn: list[Spot]) -> list[Shape]:
    """Each method's name near its point, with a leader where it had to move away."""
    page = Box(frame.left + 2, frame.top - 4, frame.right + EDGE - 4, frame.bottom - 2)
    taken = [Box(x - 8, y - 8, x + 8, y + 8) for x, y in spots]
    shapes: list[Shape] = []
    drawn = list(drawn)
    for point, spot in zip(figure.points, spots):
        words = shorten(point.label, SMALL, 300)
        box = choose_box_beside(spot, (text_width(words, SMALL), 15), page, taken, drawn)
        taken.append(box)
        x, y = nearest(box, spot)
        if max(abs(x - spot[0]), abs(y - spot[1])) > 20:
            line = leader(box, spot)[2:]
            drawn += points_along((line[0], line[-1]))
            shapes.append(Polyline(points=(line[0], line[-1]), stroke="muted", width=0.8))
        tip = tip_words(figure, point)
        shapes.append(Text(x=box.left, y=box.bottom - 3, text=words, size=SMALL, halo="paper", tip=tip))
    return shapes
