"""An evaluation for the terminal, 80 columns wide, and in Markdown."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from kvplan.core.evaluation import Evaluation
from kvplan.reports.evaluate_rows import (
    LEGEND,
    METHOD,
    NARROW_VERDICTS,
    VERDICT_WORDS,
    broken,
    evaluate_headline,
    evaluate_rows,
    evaluate_verdict,
    measured_columns,
    next_lines,
    verdict_lines,
    versions_line,
)
from kvplan.reports.to_markdown import markdown_table
from kvplan.reports.to_table import grid

_LEAST_METHOD = 12
_GAP = 2


def print_evaluation(found: Evaluation, console: Console) -> None:
    """The verdict, what fails or is open and what to do, what ran, a row for each method with its intervals below."""
    style = "bold green" if found.passed else "bold red"
    console.print(Text(evaluate_verdict(found), style=style))
    for line in verdict_lines(found):
        console.print(Text(line))
    console.print()
    console.print(Text(evaluate_headline(found), style="dim"))
    console.print(Text(versions_line(found), style="dim"))
    console.print()
    header, rows = _narrow_table(found, console.width)
    console.print(grid(header, rows, left_columns=1))
    console.print()
    for line in next_lines(found):
        console.print(Text(line))
    for name in measured_columns(found):
        console.print(Text(f"{name}: {LEGEND[name]}", style="dim"))


def evaluate_markdown(found: Evaluation) -> str:
    """The same as Markdown, for a ticket."""
    columns = measured_columns(found)
    header = (METHOD, *columns, "verdict")
    cells = [[f"{figure} ({interval})" if interval else figure for figure, interval in row] for row in _rows(found)]
    verdicts = ["baseline", *(VERDICT_WORDS[report.verdict] for report in found.methods)]
    rows = [[name, *row, verdict] for name, row, verdict in zip(_names(found), cells, verdicts)]
    pieces = [f"**{evaluate_verdict(found)}**", "\n".join(f"* {line}" for line in verdict_lines(found))]
    pieces += [evaluate_headline(found), versions_line(found), markdown_table(header, rows)]
    pieces.append("\n".join(f"* {line}" for line in found.notes))
    return "\n\n".join(piece for piece in pieces if piece)


def _narrow_table(found: Evaluation, width: int) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows; the name of a method takes what the figures leave, on several lines where it must."""
    columns = measured_columns(found)
    header = (METHOD, *columns, "verdict")
    cells = [[f"{figure}\n{interval}".rstrip() for figure, interval in row] for row in _rows(found)]
    verdicts = ["baseline", *(NARROW_VERDICTS[report.verdict] for report in found.methods)]
    figures = [[*row, verdict] for row, verdict in zip(cells, verdicts)]
    taken = sum(_GAP + _width(column) for column in zip(header[1:], *figures))
    room = max(_LEAST_METHOD, width - taken)
    return header, [[broken(name, room), *row] for name, row in zip(_names(found), figures)]


def _names(found: Evaluation) -> list[str]:
    return [found.baseline.method, *(report.method for report in found.methods)]


def _rows(found: Evaluation) -> list[list[tuple[str, str]]]:
    return list(evaluate_rows(found, measured_columns(found)))


def _width(cells: tuple[str, ...]) -> int:
    return max(len(line) for cell in cells for line in cell.split("\n"))
