"""A verification for the terminal, 80 columns wide, and in Markdown."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from kvplan.core.verification import Verification
from kvplan.planning.verify_diff import VerificationDiff
from kvplan.reports.to_markdown import markdown_table
from kvplan.reports.to_table import grid
from kvplan.reports.verify_rows import (
    CHECK_HEADER,
    SUBJECT_HEADER,
    device_line,
    diff_lines,
    failed_rows,
    grouped_rows,
    headline,
    name_of,
    next_lines,
    subject_rows,
    subjects,
    verdict,
)


def print_verification(found: Verification, console: Console) -> None:
    """The verdict, what asks for it again, where it ran, and the checks; of several subjects, sums and failures."""
    console.print(Text(verdict(found), style="bold green" if found.passed else "bold red"))
    console.print(Text(headline(found)))
    console.print(Text(device_line(found), style="dim"))
    if len(subjects(found)) > 1:
        console.print()
        console.print(grid(SUBJECT_HEADER, subject_rows(found), left_columns=1))
        if rows := failed_rows(found):
            console.print()
            console.print(grid(CHECK_HEADER, rows, left_columns=1))
    else:
        for title, rows in grouped_rows(found.checks):
            console.print()
            console.print(Text(title, style="bold"))
            console.print(grid(CHECK_HEADER, rows, left_columns=1))
    if lines := next_lines(found):
        console.print()
        for line in lines:
            console.print(Text(line, style="dim"))


def print_diff(diff: VerificationDiff, console: Console) -> None:
    """What changed since another report."""
    for line in diff_lines(diff):
        console.print(Text(line))


def verify_markdown(found: Verification) -> str:
    """The same as Markdown, for a ticket: every subject's checks, notes and versions."""
    pieces = [f"**{verdict(found)}**", f"`{headline(found)}`", device_line(found)]
    if len(subjects(found)) > 1:
        pieces.append(markdown_table(SUBJECT_HEADER, subject_rows(found)))
    for title, rows in grouped_rows(found.checks):
        pieces += [f"### {title}", markdown_table(CHECK_HEADER, rows)]
    pieces.append("\n".join(f"* {line}" for line in (*next_lines(found), *found.notes)))
    return "\n\n".join(piece for piece in pieces if piece)


def explain_lines(found: Verification) -> list[str]:
    """``--explain``: every check by itself, and how it was measured."""
    lines = []
    for check in found.checks:
        figures = f"{check.predicted_bytes:,} predicted, {check.measured_bytes:,} measured"
        lines.append(f"{check.group}: {name_of(check)}: {figures}" + (f" ({check.detail})" if check.detail else ""))
    return lines
