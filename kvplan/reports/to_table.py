"""Tables for the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvplan.core.request import SizeResult
from kvplan.core.units import format_bytes
from kvplan.planning.compare import EngineComparison
from kvplan.planning.next_steps import NextStep
from kvplan.reports.size_rows import (
    LAYER_HEADER,
    comparison_columns,
    headline,
    layer_rows,
    refusal_lines,
    summary_lines,
)


def stdout_console() -> Console:
    """The console that data goes to; a pipe or a file gets 100 columns and no colour."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=100, color_system=None)


def print_size(result: SizeResult, steps: Sequence[NextStep], console: Console) -> None:
    """One request: headline, summary, layers, what to try next."""
    console.print(Text(headline(result), style="bold"))
    console.print()
    console.print(_summary_table(result))
    console.print()
    console.print(grid(LAYER_HEADER, layer_rows(result), left_columns=1))
    if result.allocation.log_line:
        console.print()
        console.print(Text(f"The engine will log: {result.allocation.log_line}", style="dim"))
    if steps:
        tried = ", ".join(f"{format_bytes(step.cache_bytes)} {step.words} ({step.option})" for step in steps)
        console.print()
        console.print(Text(f"Smaller: {tried}", style="dim"))


def print_comparison(answer: EngineComparison, console: Console) -> None:
    """Several requests side by side, and the engines that cannot do what is asked."""
    shared, columns = comparison_columns(answer.results)
    header, *rows = zip(*columns)
    console.print(Text(shared, style="bold"))
    console.print()
    console.print(grid(header, rows, left_columns=2 if tuple(header[:2]) == ("model", "engine") else 1))
    if answer.refusals:
        console.print()
        for line in refusal_lines(answer.refusals):
            console.print(Text(line, style="dim"))


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], left_columns: int) -> Table:
    """A plain table: the first ``left_columns`` columns to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < left_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _summary_table(result: SizeResult) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(style="dim")
    for line in summary_lines(result):
        table.add_row(line.label, line.value, line.remark)
    return table
