"""SVG with nothing but the standard library: a drawing that stands alone, or one to be set into a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from kvplan.reports.scene import HATCHES, INKS, WIDTH, Circle, Polygon, Polyline, Rect, Scene, Shape, Text

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_svg(scenes: Sequence[Scene]) -> str:
    """One SVG document with the scenes below each other; black on white, as print wants it."""
    height = sum(scene.height for scene in scenes)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', _opening(height, ' xmlns="http://www.w3.org/2000/svg"')]
    lines += [*_words(scenes), *_patterns(scenes, "kv")]
    lines.append(f'<rect class="fill-paper" width="{WIDTH}" height="{_number(height)}" fill="{INKS["paper"].light}"/>')
    top = 0.0
    for scene in scenes:
        lines += [f'<g transform="translate(0,{_number(top)})">', *_shapes(scene, "kv"), "</g>"]
        top += scene.height
    return "\n".join([*lines, "</svg>", ""])


def inline_svg(scene: Scene, name: str) -> str:
    """An ``<svg>`` element for an HTML page; ``name`` keeps its patterns apart from those of the page's others."""
    lines = [_opening(scene.height), *_words([scene]), *_patterns([scene], name), *_shapes(scene, name), "</svg>"]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text as XML and HTML want it, in an element or in quotes; characters that XML does not have become a box."""
    clean = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    return clean.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _opening(height: float, namespace: str = "") -> str:
    size = f'width="{WIDTH}" height="{_number(height)}" viewBox="0 0 {WIDTH} {_number(height)}"'
    return f'<svg{namespace} {size} role="img" font-family="sans-serif" stroke-linejoin="round">'


def _words(scenes: Sequence[Scene]) -> list[str]:
    title = "; ".join(scene.title for scene in scenes)
    described = " ".join(scene.description for scene in scenes)
    return [f"<title>{escape(title)}</title>", f"<desc>{escape(described)}</desc>"]


def _patterns(scenes: Iterable[Scene], name: str) -> list[str]:
    """The hatches that are used; their lines are paper-coloured, laid over the fill."""
    shapes = (shape for scene in scenes for shape in scene.shapes)
    used = sorted({shape.hatch for shape in shapes if isinstance(shape, Rect) and shape.hatch})
    if not used:
        return []
    tiles = [_pattern(f"{name}-hatch{index}", HATCHES[index].path) for index in used]
    return ["<defs>", *tiles, "</defs>"]


def _pattern(name: str, path: str) -> str:
    pen = f'class="stroke-paper" stroke="{INKS["paper"].light}" stroke-width="1.3" stroke-linecap="round" fill="none"'
    tile = f'id="{name}" width="8" height="8" patternUnits="userSpaceOnUse"'
    return f'<pattern {tile}><path d="{path}" {pen}/></pattern>'


def _shapes(scene: Scene, name: str) -> Iterator[str]:
    for shape in scene.shapes:
        if isinstance(shape, Rect):
            yield from _rect(shape, name)
        else:
            yield _shape(shape)


def _rect(shape: Rect, name: str) -> Iterator[str]:
    sizes = {"x": shape.x, "y": shape.y, "width": shape.width, "height": shape.height}
    place = " ".join(f'{name}="{_number(value)}"' for name, value in sizes.items())
    yield _element("rect", place + _paint(shape.fill, shape.stroke) + _dash(shape.dash), shape.tip)
    if shape.hatch:
        yield f'<rect {place} fill="url(#{name}-hatch{shape.hatch})" pointer-events="none"/>'


def _shape(shape: Shape) -> str:
    if isinstance(shape, Polyline):
        pen = f' stroke-width="{_number(shape.width)}"{_dash(shape.dash)}'
        return _element("polyline", _points(shape.points) + _paint(None, shape.stroke) + pen)
    if isinstance(shape, Polygon):
        return _element("polygon", _points(shape.points) + _paint(shape.fill, shape.stroke), shape.tip)
    if isinstance(shape, Circle):
        place = f'cx="{_number(shape.x)}" cy="{_number(shape.y)}" r="{_number(shape.radius)}"'
        return _element("circle", place + _paint(shape.fill, shape.stroke), shape.tip)
    assert isinstance(shape, Text)
    return _text(shape)


def _text(shape: Text) -> str:
    attributes = f'x="{_number(shape.x)}" y="{_number(shape.y)}" font-size="{_number(shape.size)}"'
    if shape.anchor != "start":
        attributes += f' text-anchor="{shape.anchor}"'
    if shape.bold:
        attributes += ' font-weight="bold"'
    if shape.halo:
        attributes += ' stroke-width="4" paint-order="stroke"'
    paint = _paint(shape.fill, shape.halo or None)
    tip = "" if shape.tip in ("", shape.text) else f"<title>{escape(shape.tip)}</title>"
    return f"<text {attributes}{paint}>{escape(shape.text)}{tip}</text>"


def _element(tag: str, attributes: str, tip: str = "") -> str:
    return f"<{tag} {attributes}><title>{escape(tip)}</title></{tag}>" if tip else f"<{tag} {attributes}/>"


def _paint(fill: str | None, stroke: str | None) -> str:
    """Colours as attributes, and as classes by which a page can repaint them."""
    names = [f"fill-{fill}"] * bool(fill) + [f"stroke-{stroke}"] * bool(stroke)
    colours = f' fill="{INKS[fill].light if fill else "none"}"' + (f' stroke="{INKS[stroke].light}"' if stroke else "")
    return f' class="{" ".join(names)}"{colours}'


def _dash(dash: tuple[float, ...]) -> str:
    return f' stroke-dasharray="{" ".join(map(_number, dash))}"' if dash else ""


def _points(points: tuple[tuple[float, float], ...]) -> str:
    return 'points="' + " ".join(f"{_number(x)},{_number(y)}" for x, y in points) + '"'


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
