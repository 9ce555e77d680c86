"""Fit reports for the terminal, 80 columns wide, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kvplan.core.fit import FitResult
from kvplan.reports.fit_rows import (
    LINE_HEADER,
    budget_bar,
    budget_rows,
    capacity_rows,
    fit_headline,
    stage_words,
    verdict,
)
from kvplan.reports.to_markdown import markdown_table
from kvplan.reports.to_table import grid


def print_fit(result: FitResult, suggestions: Sequence[str], console: Console) -> None:
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
    if suggestions:
        console.print()
        for line in suggestions:
            console.print(Text(line))


def fit_markdown(result: FitResult, suggestions: Sequence[str]) -> str:
    """The same as Markdown."""
    pieces = [f"**{fit_headline(result)}**", verdict(result)]
    for words, budget in zip(stage_words(result), result.budgets):
        pieces += [words, markdown_table(LINE_HEADER, budget_rows(budget))]
    pieces.append(markdown_table(("the cache", "", ""), capacity_rows(result)))
    pieces += ["\n".join(f"* {line}" for line in suggestions)] if suggestions else []
    return "\n\n".join(pieces)
