"""Options that several commands share, each defined once.

A command declares its options as ``Annotated[type, option("--name", "-n", help="…")]``. They are read twice: by
``quick_start`` without importing typer, and by ``app``, which turns them into typer's.
"""

from enum import Enum
from typing import Annotated, NamedTuple


class Option(NamedTuple):
    """The spellings of a command-line option, and what it is for."""

    flags: tuple[str, ...]
    help: str


def option(*flags: str, help: str) -> Option:
    """An option with its spellings, the long one first."""
    return Option(flags, help)


class OutputFormat(str, Enum):
    """How an answer is written to stdout."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


FormatOption = Annotated[OutputFormat, option("--format", "-f", help="How to write the answer.")]
JsonOption = Annotated[bool, option("--json", help="Short for --format json.")]
ExplainOption = Annotated[bool, option("--explain", help="Write out the equations and their sources.")]


def chosen_format(output: OutputFormat, as_json: bool) -> OutputFormat:
    """``--json`` wins over ``--format``."""
    return OutputFormat.json if as_json else output
