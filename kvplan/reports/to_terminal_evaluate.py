"""An evaluation drawn in the terminal, 80 columns wide: bars of memory with what they cost, and the needle maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from kvplan.core.units import format_tokens
from kvplan.reports.figures import Figure, HeatFigure, HeatPanel, TradeFigure, TradePoint
from kvplan.reports.scene import INKS, heat
from kvplan.reports.trade_scene import VERDICT_INKS, loss_words

WIDTH = 80
_BAR, _NAME, _CELL = 20, 24, 5


def print_figures(figures: Sequence[Figure], console: Console) -> None:
    """Each figure below the other."""
    for index, figure in enumerate(figures):
        if index:
            console.print()
        for line in _lines(figure):
            line.truncate(WIDTH, overflow="ellipsis")
            console.print(line)


def _lines(figure: Figure) -> Iterator[Text]:
    yield Text(figure.title, style="bold")
    if isinstance(figure, TradeFigure):
        yield from _trade_lines(figure)
    elif isinstance(figure, HeatFigure):
        yield from _heat_lines(figure)


def _trade_lines(figure: TradeFigure) -> Iterator[Text]:
    """A bar of memory for each method, the smallest last; a star is on the Pareto front."""
    yield Text(f"{'':{_NAME}} memory {'':{_BAR}} {'loss':>7}", style="dim")
    for point in sorted(figure.points, key=lambda point: -point.memory_ratio):
        yield _bar(figure, point)
    yield Text("* Pareto front: nothing else is better in both", style="dim")


def _bar(figure: TradeFigure, point: TradePoint) -> Text:
    name = point.label if len(point.label) <= _NAME else f"{point.label[: _NAME - 3]}..."
    filled = min(_BAR, max(1, round(point.memory_ratio * _BAR)))
    line = Text(f"{name:{_NAME}} {point.memory_ratio:5.2f}x ")
    line.append("#" * filled, style=INKS[VERDICT_INKS[point.verdict]].light)
    line.append("." * (_BAR - filled), style="dim")
    line.append(f" {loss_words(figure, point.loss):>7} {'*' if point.on_front else ' '} {point.verdict}")
    return line


def _heat_lines(figure: HeatFigure) -> Iterator[Text]:
    """The maps beside each other: percent found, rows by depth (0% is the oldest text), columns by context."""
    yield Text("percent found; down: depth of the needle, 0% is the oldest text", style="dim")
    panels = [panel for panel in figure.panels if panel.cells]
    width = max(len(panel.lengths) for panel in panels) * (_CELL + 1) + 7
    across = max(1, WIDTH // width)
    for start in range(0, len(panels), across):
        row = [_panel_lines(panel, width) for panel in panels[start : start + across]]
        for at in range(max(map(len, row))):
            yield Text.assemble(*(lines[at] if at < len(lines) else Text(" " * width) for lines in row))


def _panel_lines(panel: HeatPanel, width: int) -> list[Text]:
    room = width - len(panel.summary) - 3
    name = panel.label if len(panel.label) <= room else f"{panel.label[: room - 3]}..."
    lines = [Text(f"{name} {panel.summary}".ljust(width), style="bold")]
    for depth in panel.depths:
        line = Text(f"{100 * depth:4.0f}% ", style="dim")
        for length in panel.lengths:
            line.append_text(_cell(panel.cells.get((length, depth))))
        lines.append(line)
        line.pad_right(max(0, width - line.cell_len))
    words = "".join(f"{format_tokens(length):^{_CELL + 1}}" for length in panel.lengths)
    lines.append(Text(f"{'':6}{words}".ljust(width), style="dim"))
    return lines


def _cell(found: float | None) -> Text:
    if found is None:
        return Text(" " * (_CELL + 1))
    ground, ink = heat(found)
    style = f"not dim {INKS[ink].light} on {INKS[ground].light}"
    return Text.assemble((f"{100 * found:^{_CELL}.0f}", style), " ")
