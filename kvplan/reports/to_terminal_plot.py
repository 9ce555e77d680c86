"""The curves drawn in the terminal: 80 columns by 20 rows, in braille dots, or ASCII where those cannot be written."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from kvplan.core.units import format_bytes
from kvplan.reports.axes import Scale, memory_scale, token_scale
from kvplan.reports.figures import CurveFigure
from kvplan.reports.scene import INKS, NUM_HUES, hue

WIDTH, HEIGHT = 80, 20
_LEAST_PLOT_ROWS = 8


class Glyphs(NamedTuple):
    """The characters of a drawing; ``dots`` are the dots of one character, across and down."""

    markers: str
    limit: str
    side: str
    floor: str
    corner: str
    tick: str
    dots: tuple[int, int]


BRAILLE = Glyphs("●■▲◆▼✚", "─", "│", "─", "└", "┬", (2, 4))
ASCII = Glyphs("o#^*vx", "-", "|", "-", "+", "+", (1, 1))
_BRAILLE_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_PLAIN = str.maketrans({"×": "x", "·": "-", "–": "-", "—": "-", "…": "...", "≈": "~", "−": "-", "±": "+-"})


class Cell(NamedTuple):
    """One character on the plot, and its style."""

    char: str
    style: str


class Grid(NamedTuple):
    """The plot in characters: its size, the dots of a character, its axes, what was drawn so far by (column, row)."""

    columns: int
    rows: int
    dots: tuple[int, int]
    tokens: Scale
    memory: Scale
    cells: dict[tuple[int, int], Cell]

    def dot(self, tokens: float, size_bytes: float) -> tuple[int, int]:
        """The dot of a context and an amount of memory, from the left and from the top."""
        across, down = self.columns * self.dots[0] - 1, self.rows * self.dots[1] - 1
        return round(self.tokens.place(tokens) * across), round((1 - self.memory.place(size_bytes)) * down)

    def at(self, tokens: float, size_bytes: float) -> tuple[int, int]:
        """The column and row of the character that has the dot."""
        x, y = self.dot(tokens, size_bytes)
        return x // self.dots[0], y // self.dots[1]


def print_plot(figure: CurveFigure, console: Console) -> None:
    """Draw the curves on a console, in what its encoding can write."""
    glyphs = BRAILLE if console.encoding.lower().replace("-", "") == "utf8" else ASCII
    console.print(terminal_plot(figure, glyphs), soft_wrap=True)


def terminal_plot(figure: CurveFigure, glyphs: Glyphs = BRAILLE) -> Text:
    """The title, the plot with its axes, and the legend; more rows than HEIGHT only for a long legend."""
    legend = _legend(figure, glyphs)
    rows = max(_LEAST_PLOT_ROWS, HEIGHT - 3 - len(legend))
    memory = memory_scale(figure, max_ticks=max(3, rows // 2))
    margin = max(map(len, memory.labels)) + 1
    columns = WIDTH - margin - 1
    tokens = token_scale(figure.all_tokens(), max_ticks=columns // 7)
    grid = Grid(columns, rows, glyphs.dots, tokens, memory, {})
    _draw_limit(figure, grid, glyphs)
    _draw_lines(figure, grid, glyphs)
    _draw_points(figure, grid, glyphs)
    lines = [Text(_written(figure.title, glyphs), style="bold"), *_plot_rows(grid, margin, glyphs), *legend]
    for line in lines:
        line.truncate(WIDTH, overflow="crop")
    return Text("\n").join(lines)


def _draw_limit(figure: CurveFigure, grid: Grid, glyphs: Glyphs) -> None:
    if figure.limit_bytes is not None:
        _, row = grid.at(grid.tokens.low, figure.limit_bytes)
        grid.cells.update({(column, row): Cell(glyphs.limit, "bold") for column in range(grid.columns)})


def _draw_lines(figure: CurveFigure, grid: Grid, glyphs: Glyphs) -> None:
    """Dots along the straight lines between points; dots of several lines in one character are joined."""
    bits: dict[tuple[int, int], int] = {}
    across, down = glyphs.dots
    for index, series in enumerate(figure.series):
        spots = [grid.dot(*point) for point in series.points]
        for (x0, y0), (x1, y1) in pairwise(spots):
            steps = max(abs(x1 - x0), abs(y1 - y0), 1)
            for step in range(steps + 1):
                x, y = round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
                place = x // across, y // down
                bits[place] = bits.get(place, 0) | _BRAILLE_BITS[y % down][x % across]
                char = "." if glyphs is ASCII else chr(0x2800 + bits[place])
                grid.cells[place] = Cell(char, _style(index))


def _draw_points(figure: CurveFigure, grid: Grid, glyphs: Glyphs) -> None:
    """A marker on each point, and the number of each mark."""
    for index, series in enumerate(figure.series):
        cell = Cell(glyphs.markers[index % len(glyphs.markers)], _style(index))
        grid.cells.update({grid.at(*point): cell for point in series.points})
    for number, (_, tokens, size) in enumerate(figure.marks, start=1):
        grid.cells[grid.at(tokens, size)] = Cell(str(number)[-1], "bold reverse")


def _plot_rows(grid: Grid, margin: int, glyphs: Glyphs) -> list[Text]:
    labels = {grid.at(grid.tokens.low, tick)[1]: label for tick, label in zip(grid.memory.ticks, grid.memory.labels)}
    lines = []
    for row in range(grid.rows):
        line = Text(f"{labels.get(row, ''):>{margin - 1}} {glyphs.side}", style="dim")
        for column in range(grid.columns):
            char, style = grid.cells.get((column, row), Cell(" ", ""))
            line.append(char, style=f"not dim {style}")
        lines.append(line)
    return [*lines, *_token_axis(grid, margin, glyphs)]


def _token_axis(grid: Grid, margin: int, glyphs: Glyphs) -> list[Text]:
    """The floor of the plot with its ticks, and their labels where these have room."""
    floor = [glyphs.floor] * grid.columns
    words = [" "] * WIDTH
    end = 0
    for tick, label in zip(grid.tokens.ticks, grid.tokens.labels):
        column, _ = grid.at(tick, grid.memory.high)
        start = min(max(end, margin + 1 + column - len(label) // 2), WIDTH - len(label))
        if start >= end and abs(start + len(label) // 2 - margin - 1 - column) <= len(label):
            floor[column] = glyphs.tick
            words[start : start + len(label)] = label
            end = start + len(label) + 1
    unit = "tokens"
    if not "".join(words[: len(unit) + 1]).strip():
        words[: len(unit)] = unit
    return [
        Text(" " * margin + glyphs.corner + "".join(floor), style="dim"),
        Text("".join(words).rstrip(), style="dim"),
    ]


def _legend(figure: CurveFigure, glyphs: Glyphs) -> list[Text]:
    """The lines, their last values, the limit and the marks, as many to a row as have room."""
    entries = [
        (
            glyphs.markers[index % len(glyphs.markers)],
            _style(index),
            f"{series.label} {format_bytes(series.points[-1][1])}",
        )
        for index, series in enumerate(figure.series)
    ]
    if figure.limit_bytes is not None:
        entries.append((glyphs.limit * 2, "bold", figure.limit_words()))
    for number, (label, _, size) in enumerate(figure.marks, start=1):
        entries.append((str(number)[-1], "bold reverse", f"{label} {format_bytes(size)}"))
    lines = [Text()]
    for sign, style, words in entries:
        entry = Text.assemble((sign, style), " ", _written(words, glyphs))
        entry.truncate(WIDTH, overflow="crop" if glyphs is ASCII else "ellipsis")
        if lines[-1].cell_len and lines[-1].cell_len + 3 + entry.cell_len > WIDTH:
            lines.append(Text())
        lines[-1].append("   " if lines[-1].cell_len else "").append_text(entry)
    return lines


def _written(words: str, glyphs: Glyphs) -> str:
    """The words in ASCII where nothing else can be written."""
    if glyphs is not ASCII:
        return words
    return words.translate(_PLAIN).encode("ascii", "replace").decode("ascii")


def _style(index: int) -> str:
    """The colour of a series; black lines take that of the terminal's text."""
    return "default" if index % NUM_HUES == NUM_HUES - 1 else INKS[hue(index)].light
