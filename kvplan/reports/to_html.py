"""One HTML file that needs nothing else: the pictures, and the figures behind them as tables."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.units import format_bytes, format_tokens
from kvplan.reports.drawing import draw
from kvplan.reports.figures import BudgetFigure, CurveFigure, Figure, HeatFigure, TradeFigure, rest_words
from kvplan.reports.scene import INKS
from kvplan.reports.to_svg import escape, inline_svg
from kvplan.reports.trade_scene import loss_words

_STYLE = """
:root { color-scheme: light dark; --paper: %(paper_light)s; --ink: %(ink_light)s; --muted: %(muted_light)s;
  --line: %(grid_light)s; }
body { margin: 0 auto; padding: 1rem; max-width: 900px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 sans-serif; }
figure { margin: 0 0 1rem; }
svg { display: block; width: 100%%; height: auto; }
.scroll { overflow-x: auto; margin: 0 3%% 3rem; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding-bottom: .4rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; }
td.over { color: var(--muted); font-style: italic; }
td.over::before { content: "✕ "; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: %(paper_dark)s; --ink: %(ink_dark)s; --muted: %(muted_dark)s; --line: %(grid_dark)s; }
%(repainted)s
}
@media print { figure, table { break-inside: avoid; } }
"""


def render_html(figures: Sequence[Figure]) -> str:
    """The page; light or dark as the reader's screen is, black on white in print."""
    title = escape("; ".join(figure.title for figure in figures))
    lines = ["<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">']
    lines += ['<meta name="viewport" content="width=device-width, initial-scale=1">', f"<title>{title}</title>"]
    lines += [f"<style>{_style()}</style>", "</head>", "<body>", "<main>"]
    for index, figure in enumerate(figures):
        lines += ["<figure>", inline_svg(draw(figure), f"figure{index}"), "</figure>", '<div class="scroll">']
        lines += [*_table(figure), "</div>"]
    return "\n".join([*lines, "</main>", "</body>", "</html>", ""])


def _style() -> str:
    colours = {f"{name}_{mode}": getattr(INKS[name], mode) for name in INKS for mode in ("light", "dark")}
    repainted = [
        f"  .{what}-{name} {{ {what}: {colour.dark}; }}" for name, colour in INKS.items() for what in ("fill", "stroke")
    ]
    return _STYLE % {**colours, "repainted": "\n".join(repainted)}


def _table(figure: Figure) -> list[str]:
    """The figures behind a picture."""
    if isinstance(figure, CurveFigure):
        return _curve_table(figure)
    if isinstance(figure, BudgetFigure):
        return _budget_table(figure)
    return _heat_table(figure) if isinstance(figure, HeatFigure) else _trade_table(figure)


def _curve_table(figure: CurveFigure) -> list[str]:
    """A row for each context, a column for each series; what is over the limit carries a cross."""
    caption = "Memory by context"
    if figure.limit_bytes is not None:
        caption += f"; ✕ is over the limit of {figure.limit_words()}"
    lines = ["<table>", f"<caption>{escape(caption)}</caption>"]
    lines.append(_header(["context", *(series.label for series in figure.series)]))
    columns = [dict(series.points) for series in figure.series]
    lines.append("<tbody>")
    for tokens in figure.contexts():
        cells = [_bytes_cell(column.get(tokens), figure.limit_bytes) for column in columns]
        lines.append(f'<tr><th scope="row">{format_tokens(tokens)}</th>{"".join(cells)}</tr>')
    lines += ["</tbody>", "</table>"]
    if figure.marks:
        lines += ["<ul>", *(f"<li>{escape(_mark_words(*mark))}</li>" for mark in figure.marks), "</ul>"]
    return lines


def _budget_table(figure: BudgetFigure) -> list[str]:
    """A row for each part, a column for each bar, and how the part's figure is known."""
    lines = ["<table>", "<caption>Memory by rank</caption>"]
    lines.append(_header(["part", *(row.label for row in figure.rows), "known as"]))
    lines.append("<tbody>")
    for label in figure.segment_labels():
        cells = "".join(_bytes_cell(row.bytes_of(label), None) for row in figure.rows)
        sure = f"<td>{escape(figure.certainty_of(label))}</td>"
        lines.append(f'<tr><th scope="row">{escape(label)}</th>{cells}{sure}</tr>')
    totals = "".join(_bytes_cell(row.total_bytes, None) for row in figure.rows)
    rests = "".join(f"<td>{rest_words(row)}</td>" for row in figure.rows)
    lines.append(f'<tr><th scope="row">rest</th>{rests}<td></td></tr>')
    lines.append(f'<tr><th scope="row">device</th>{totals}<td></td></tr>')
    return [*lines, "</tbody>", "</table>"]


def _heat_table(figure: HeatFigure) -> list[str]:
    """A row for each method and depth, a column for each length."""
    lengths = sorted({length for panel in figure.panels for length in panel.lengths})
    lines = ["<table>", "<caption>Needles found, by depth and tokens of context</caption>"]
    lines += [_header(["method", "depth", *map(format_tokens, lengths)]), "<tbody>"]
    for panel in figure.panels:
        for depth in panel.depths:
            shares = [panel.cells.get((length, depth)) for length in lengths]
            cells = "".join(f"<td>{'' if share is None else f'{100 * share:.0f}%'}</td>" for share in shares)
            lines.append(f'<tr><th scope="row">{escape(panel.label)}</th><td>{100 * depth:.0f}%</td>{cells}</tr>')
    return [*lines, "</tbody>", "</table>"]


def _trade_table(figure: TradeFigure) -> list[str]:
    """A row for each method."""
    lines = ["<table>", "<caption>Quality against memory</caption>"]
    lines += [_header(["method", "memory", figure.loss_label, "verdict", "Pareto front"]), "<tbody>"]
    for point in figure.points:
        cells = (f"{point.memory_ratio:.2f}x", loss_words(figure, point.loss), point.verdict, "yes" * point.on_front)
        written = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(point.label)}</th>{written}</tr>')
    return [*lines, "</tbody>", "</table>"]


def _header(names: Sequence[str]) -> str:
    return "<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in names) + "</tr></thead>"


def _bytes_cell(size: int | None, limit: int | None) -> str:
    """An amount of memory as people read it, the exact bytes with it for machines and pointers."""
    if size is None:
        return "<td></td>"
    over = ' class="over"' if limit is not None and size > limit else ""
    return f'<td{over}><data value="{size}" title="{size:,} bytes">{format_bytes(size)}</data></td>'


def _mark_words(label: str, tokens: int, size: int) -> str:
    return f"{label}: {format_bytes(size)} at {tokens:,} tokens"
