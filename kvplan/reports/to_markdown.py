"""Markdown, for tickets and wikis."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.request import SizeResult
from kvplan.reports.size_rows import (
    LAYER_HEADER,
    comparison_columns,
    headline,
    layer_rows,
    summary_lines,
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def size_markdown(results: Sequence[SizeResult]) -> str:
    """One request in full, or several side by side."""
    if len(results) > 1:
        shared, columns = comparison_columns(results)
        header, *rows = zip(*columns)
        return f"**{shared}**\n\n{markdown_table(header, rows)}"
    result = results[0]
    summary = [(line.label, line.value, line.remark) for line in summary_lines(result)]
    return "\n\n".join(
        (
            f"**{headline(result)}**",
            markdown_table(("", "size", "remark"), summary),
            markdown_table(LAYER_HEADER, layer_rows(result)),
        )
    )
