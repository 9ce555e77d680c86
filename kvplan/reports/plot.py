"""Figures into a file: the ending of its name says of which kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kvplan.core.errors import UsageError
from kvplan.reports.figures import Figure


def write_figure(path: str | Path, figures: Sequence[Figure]) -> None:
    """Draw the figures, below each other, into ``path``: .svg, .png (with the ``plot`` extra) or .html.

    Raises UsageError for another ending, for a folder, for a file that cannot be written, and without the extra.
    """
    target = Path(path)
    check_plot_path(target)
    content = _WRITERS[target.suffix.lower()](figures)
    try:
        target.write_bytes(content)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def check_plot_path(path: str | Path) -> None:
    """Refuse a name that no picture can be written to, before anything is computed. Raises UsageError."""
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: it is a folder", "name a file in it, such as plan.svg")
    if target.suffix.lower() not in _WRITERS:
        hint = "its name ends in .svg, .png or .html; - draws in the terminal"
        raise UsageError(f"cannot draw a picture into {str(path)!r}", hint)
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: there is no folder {str(target.parent)!r}")


def _svg(figures: Sequence[Figure]) -> bytes:
    from kvplan.reports.drawing import draw
    from kvplan.reports.to_svg import render_svg

    return render_svg([draw(figure) for figure in figures]).encode()


def _png(figures: Sequence[Figure]) -> bytes:
    from kvplan.reports.drawing import draw
    from kvplan.reports.to_png import render_png

    return render_png([draw(figure) for figure in figures])


def _html(figures: Sequence[Figure]) -> bytes:
    from kvplan.reports.to_html import render_html

    return render_html(figures).encode()


_WRITERS: dict[str, Callable[[Sequence[Figure]], bytes]] = {".svg": _svg, ".png": _png, ".html": _html}
