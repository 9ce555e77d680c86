"""PNG through matplotlib (the ``plot`` extra), from the same scenes as SVG, so that both show the same picture."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from kvplan.core.errors import UsageError
from kvplan.reports.scene import HATCHES, INKS, WIDTH, Circle, Polygon, Polyline, Rect, Scene, Shape, Text

DOTS_PER_PIXEL = 2
_PIXELS_PER_INCH = 100
_POINTS_PER_PIXEL = 72 / _PIXELS_PER_INCH


def render_png(scenes: Sequence[Scene]) -> bytes:
    """The scenes below each other, at twice as many dots as pixels. Raises UsageError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D
    except ImportError:
        raise UsageError(
            "a PNG needs matplotlib, which is not installed",
            "pip install 'kvplan[plot]' (from a checkout: pip install '.[plot]'), or name a .svg or .html file",
        ) from None

    height = sum(scene.height for scene in scenes)
    figure = Figure(figsize=(WIDTH / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), facecolor=INKS["paper"].light)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    top, layer = 0.0, 1
    for scene in scenes:
        place = Affine2D().translate(0, top) + axes.transData
        for shape in scene.shapes:
            layer += 1
            for artist in _artists(shape):
                artist.set(transform=place, zorder=layer, clip_on=False)
                axes.add_artist(artist)
        top += scene.height
    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # what the font lacks is drawn as a box, and that will do
        figure.savefig(
            picture, format="png", dpi=_PIXELS_PER_INCH * DOTS_PER_PIXEL, metadata={"Title": scenes[0].title}
        )
    return picture.getvalue()


def _artists(shape: Shape) -> list[Any]:
    """The shape in matplotlib's terms; the transform is the caller's."""
    from matplotlib import lines, patches

    if isinstance(shape, Rect):
        return _rect(shape)
    if isinstance(shape, Polyline):
        return [
            lines.Line2D(
                [x for x, _ in shape.points],
                [y for _, y in shape.points],
                color=INKS[shape.stroke].light,
                linewidth=shape.width * _POINTS_PER_PIXEL,
                linestyle=_line_style(shape),
                dash_capstyle="butt",
            )
        ]
    if isinstance(shape, Text):
        return [_text(shape)]
    paint = _paint(shape.fill, shape.stroke)
    if isinstance(shape, Circle):
        return [patches.Circle((shape.x, shape.y), shape.radius, **paint)]
    assert isinstance(shape, Polygon)
    return [patches.Polygon(shape.points, closed=True, **paint)]


def _rect(shape: Rect) -> list[Any]:
    from matplotlib import patches

    corner = (shape.x, shape.y)
    drawn = [patches.Rectangle(corner, shape.width, shape.height, **_paint(shape.fill, shape.stroke))]
    if shape.hatch:
        paint = _paint(None, None) | {"edgecolor": INKS["paper"].light, "linewidth": 0.0}
        letters = HATCHES[shape.hatch].letters
        drawn.append(patches.Rectangle(corner, shape.width, shape.height, hatch=letters, **paint))
    return drawn


def _text(shape: Text) -> Any:
    from matplotlib import patheffects, text

    drawn = text.Text(
        shape.x,
        shape.y,
        shape.text,
        fontsize=shape.size * _POINTS_PER_PIXEL,
        color=INKS[shape.fill].light,
        fontweight="bold" if shape.bold else "normal",
        horizontalalignment={"start": "left", "middle": "center", "end": "right"}[shape.anchor],
        verticalalignment="baseline",
        fontfamily="DejaVu Sans",
        parse_math=False,
    )
    if shape.halo:
        rim = 4 * _POINTS_PER_PIXEL
        drawn.set_path_effects([patheffects.withStroke(linewidth=rim, foreground=INKS[shape.halo].light)])
    return drawn


def _paint(fill: str | None, stroke: str | None) -> dict[str, Any]:
    return {
        "facecolor": INKS[fill].light if fill else "none",
        "edgecolor": INKS[stroke].light if stroke else "none",
        "linewidth": _POINTS_PER_PIXEL if stroke else 0.0,
    }


def _line_style(shape: Polyline) -> Any:
    if not shape.dash:
        return "solid"
    return (0, tuple(length / shape.width for length in shape.dash))  # matplotlib counts dashes in line widths
