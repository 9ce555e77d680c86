"""A drawn picture as shapes at pixels, with y downwards: laid out once, then painted as SVG or PNG.

Shapes name an ink, not a colour, so that a page can repaint them for a dark screen. Widths of text are those of
DejaVu Sans, the widest of the common sans-serif fonts: what has room in it has room in Arial and Helvetica.
"""

from __future__ import annotations

from typing import NamedTuple

from kvplan.core.frozen import dataclass

WIDTH = 900
"""Pixels: every picture is this wide."""


class Colour(NamedTuple):
    """The colour of an ink on white paper and on a dark screen."""

    light: str
    dark: str


HEAT = ("#a50026", "#f46d43", "#fee090", "#e0f3f8", "#74add1", "#313695")
"""From nothing to everything: six classes of ColorBrewer's RdYlBu, which the colour-blind can tell apart."""

INKS = {
    "paper": Colour("#ffffff", "#16181d"),
    "ink": Colour("#1a1a1a", "#ececec"),
    "muted": Colour("#5c5c5c", "#a9adb5"),
    "grid": Colour("#e3e3e3", "#30343c"),
    "shade": Colour("#ededed", "#282c34"),
    "hue0": Colour("#0072b2", "#3f9fd8"),
    "hue1": Colour("#d55e00", "#f0813c"),
    "hue2": Colour("#009e73", "#2fc49a"),
    "hue3": Colour("#cc79a7", "#dd96be"),
    "hue4": Colour("#e69f00", "#f0b429"),
    "hue5": Colour("#56b4e9", "#7cc8f2"),
    "hue6": Colour("#000000", "#d0d0d0"),
    **{f"heat{level}": Colour(shade, shade) for level, shade in enumerate(HEAT)},
    "onlight": Colour("#1a1a1a", "#1a1a1a"),
    "ondark": Colour("#ffffff", "#ffffff"),
}
"""Hues of Okabe and Ito (https://jfly.uni-koeln.de/color), which the colour-blind can tell apart, but for yellow,
which is too faint on white; brightened for dark screens."""

NUM_HUES = 7
DASHES: tuple[tuple[float, ...], ...] = ((), (9, 4), (2, 3.5), (10, 3, 2, 3), (5, 3), (14, 4), (10, 3, 2, 3, 2, 3))
MARKERS = ("circle", "square", "triangle", "diamond", "wedge", "cross")


class Hatch(NamedTuple):
    """A fill that can be told apart without colour: an SVG path on a tile of 8 pixels, and matplotlib's letters."""

    path: str
    letters: str


HATCHES = (
    Hatch("", ""),
    Hatch("M-2,2 L2,-2 M0,8 L8,0 M6,10 L10,6", "////"),
    Hatch("M2,2 h.01 M6,6 h.01", "..."),
    Hatch("M-2,6 L2,10 M0,0 L8,8 M6,-2 L10,2", "\\\\\\\\"),
    Hatch("M0,4 h8", "---"),
    Hatch("M4,0 v8", "|||"),
    Hatch("M0,0 L8,8 M8,0 L0,8", "xxx"),
    Hatch("M0,4 h8 M4,0 v8", "+++"),
)


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; ``hatch`` is an index into HATCHES, ``tip`` is what a pointer on it is told."""

    x: float
    y: float
    width: float
    height: float
    fill: str | None = None
    stroke: str | None = None
    hatch: int = 0
    dash: tuple[float, ...] = ()
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Polyline:
    """A line through points."""

    points: tuple[tuple[float, float], ...]
    stroke: str
    width: float = 1.0
    dash: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Polygon:
    """A filled shape with a paper-coloured rim, so that it stands out from lines that it lies on."""

    points: tuple[tuple[float, float], ...]
    fill: str
    stroke: str = "paper"
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Circle:
    """A filled circle with a rim."""

    x: float
    y: float
    radius: float
    fill: str
    stroke: str = "paper"
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text on its baseline; ``anchor`` is start, middle or end.

    ``halo`` is the ink of the rim that parts it from what it crosses: that of its ground; empty for none.
    """

    x: float
    y: float
    text: str
    size: float = 13.0
    fill: str = "ink"
    anchor: str = "start"
    bold: bool = False
    halo: str = ""
    tip: str = ""


Shape = Rect | Polyline | Polygon | Circle | Text


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes from back to front on a page of WIDTH by ``height`` pixels; ``description`` is for those who hear it."""

    title: str
    description: str
    height: float
    shapes: tuple[Shape, ...]


def hue(index: int) -> str:
    """The ink of the n-th series or segment."""
    return f"hue{index % NUM_HUES}"


def heat(share: float) -> tuple[str, str]:
    """The ink of a share between 0 and 1, and the ink of words on it."""
    level = int(share * (len(HEAT) - 1))  # the last class is everything, to the last needle
    return f"heat{level}", "ondark" if level in (0, len(HEAT) - 1) else "onlight"


def marker(index: int, x: float, y: float, tip: str = "") -> Shape:
    """The marker of the n-th series around a point, of about 10 pixels."""
    fill = hue(index)
    shape = MARKERS[index % len(MARKERS)]
    if shape == "circle":
        return Circle(x=x, y=y, radius=4.5, fill=fill, tip=tip)
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "triangle": ((0, -5.5), (5.5, 4), (-5.5, 4)),
        "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
        "wedge": ((-5.5, -4), (5.5, -4), (0, 5.5)),
        "cross": _CROSS,
    }[shape]
    return Polygon(points=tuple((x + dx, y + dy) for dx, dy in corners), fill=fill, tip=tip)


_CROSS = ((-2, -6), (2, -6), (2, -2), (6, -2), (6, 2), (2, 2), (2, 6), (-2, 6), (-2, 2), (-6, 2), (-6, -2), (-2, -2))

_NARROW = frozenset("ijlI.,:;'|!()[]{}/ ft-r·")
_BROAD = frozenset("mwMW@%—…≈")


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Pixels that a line of text takes, at the most."""
    return size * sum(map(_em, text)) * (1.1 if bold else 1.0)


def shorten(text: str, size: float, room: float, bold: bool = False) -> str:
    """The text, or as much of it as has room in ``room`` pixels and an ellipsis."""
    if text_width(text, size, bold) <= room:
        return text
    kept = text
    while kept and text_width(kept + "…", size, bold) > room:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def wrap(text: str, size: float, room: float, most_lines: int) -> list[str]:
    """The words of a text on lines of ``room`` pixels; what is beyond ``most_lines`` ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], " ".join(lines[most_lines - 1 :])]
    return [shorten(line, size, room) for line in lines]


def _em(char: str) -> float:
    """The width of a character in ems; sorted into classes, each as wide as its widest but few."""
    if char in _NARROW:
        return 0.41
    if char in _BROAD:
        return 1.0
    if ord(char) >= 0x1100:
        return 1.05
    return 0.72 if char.isupper() else 0.64
