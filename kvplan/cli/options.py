"""Options that several commands share, each defined once."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class OutputFormat(str, Enum):
    """How an answer is written to stdout."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


FormatOption = Annotated[
    OutputFormat, typer.Option("--format", "-f", help="How to write the answer.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Write out the equations and their sources.")]


def chosen_format(output: OutputFormat, as_json: bool) -> OutputFormat:
    """``--json`` wins over ``--format``."""
    return OutputFormat.json if as_json else output
