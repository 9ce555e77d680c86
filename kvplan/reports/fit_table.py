"""Fit reports for the terminal, 80 columns wide, and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from kvplan.core.fit import FitResult
from kvplan.core.measured import MeasuredStart
from kvplan.core.units import format_bytes
from kvplan.planning.suggestion import Suggestion
from kvplan.planning.workload_fit import WorkloadFit
from kvplan.reports.fit_rows import (
    LINE_HEADER,
    SUGGESTION_HEADER,
    budget_bar,
    budget_rows,
    capacity_rows,
    fit_headline,
    helpless_lines,
    stage_words,
    suggestion_rows,
    verdict,
)
from kvplan.reports.to_markdown import markdown_table
from kvplan.reports.to_table import grid
from kvplan.reports.workload_rows import speed_words, workload_rows, workload_verdict


def print_fit(result: FitResult, suggestions: Sequence[Suggestion], console: Console) -> None:
    """Headline, verdict, a memory bar and budget for each stage's rank, what it holds, what to change."""
    console.print(Text(fit_headline(result), style="bold"))
    console.print()
    console.print(Text(verdict(result), style="bold green" if result.fits else "bold red"))
    for words, budget in zip(stage_words(result), result.budgets):
        console.print()
        console.print(Text(words))
        console.print(Text(budget_bar(budget)))
        console.print(grid(LINE_HEADER, budget_rows(budget), left_columns=1))
    console.print()
    console.print(grid(("the cache", "", ""), capacity_rows(result), left_columns=1))
    if result.capacity is not None and result.capacity.log_line:
        console.print()
        console.print(Text(f"The engine will log: {result.capacity.log_line}", style="dim"))
    if rows := suggestion_rows(suggestions):
        console.print()
        console.print(grid(SUGGESTION_HEADER, rows, left_columns=2))
    if lines := helpless_lines(suggestions):
        console.print()
        for line in lines:
            console.print(Text(line, style="dim"))


def fit_markdown(result: FitResult, suggestions: Sequence[Suggestion]) -> str:
    """The same as Markdown."""
    pieces = [f"**{fit_headline(result)}**", verdict(result)]
    for words, budget in zip(stage_words(result), result.budgets):
        pieces += [words, markdown_table(LINE_HEADER, budget_rows(budget))]
    pieces.append(markdown_table(("the cache", "", ""), capacity_rows(result)))
    pieces += ["\n".join(f"* {entry.line}" for entry in suggestions)] if suggestions else []
    return "\n\n".join(pieces)


def print_measured(
    measured: Mapping[str, float | int | None],
    predicted: Mapping[str, float | int | None],
    start: MeasuredStart,
    console: Console,
) -> None:
    """What the log says beside what was predicted for the same start."""
    rows = [_measured_row(name, measured[name], predicted[name]) for name in measured]
    console.print()
    if start.error is not None:
        console.print(Text(f"The log says: {start.error.message}", style="bold red"))
        console.print()
    console.print(grid(("from the log", "measured", "predicted", "difference"), rows, left_columns=1))


def _measured_row(name: str, measured: float | None, predicted: float | None) -> tuple[str, str, str, str]:
    words = name.removesuffix("_bytes").replace("_", " ")
    difference = ""
    if measured and predicted is not None:
        difference = f"{predicted / measured - 1:+.2%}"
    return (words, _figure(name, measured), _figure(name, predicted), difference)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "silent"
    if name.endswith("_bytes"):
        return format_bytes(int(value)) if value >= 0 else f"-{format_bytes(int(-value))}"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def print_workload(fit: WorkloadFit, result: FitResult, console: Console) -> None:
    """What the workload does to the pool, and the memory with which nothing waits."""
    console.print()
    console.print(Text(f"Workload: {len(fit.workload.requests):,} requests, {fit.workload.source}", style="bold"))
    console.print(Text(workload_verdict(fit, result)))
    console.print()
    console.print(grid(("", "p50", "p90", "p99", "peak"), workload_rows(fit), left_columns=1))
    console.print(Text(f"Speed: {speed_words(fit)}", style="dim"))
