"""The README's tables of options, made from the commands: ``python tests/cli/option_tables.py`` rewrites them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from kvplan.cli.app import app

README = Path(__file__).parent.parent.parent / "README.md"
START, END = "<!-- options: start -->", "<!-- options: end -->"


def commands(group: Any = None, words: str = "kvplan") -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with the words that name it."""
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def parameters(command: Any) -> list[Any]:
    """What the command takes, in its own order, without --help."""
    return [entry for entry in command.params if entry.name != "help"]


def spellings(parameter: Any) -> list[str]:
    """``--model`` and ``-m``; the name of what is given without one."""
    if parameter.param_type_name == "argument":
        return [parameter.name]
    return [*parameter.opts, *parameter.secondary_opts]


def table(words: str, command: Any) -> str:
    """A command, folded away, with one row for each of its options."""
    rows = [
        f"| {', '.join(f'`{one}`' for one in spellings(entry))} | {_text(entry)} |" for entry in parameters(command)
    ]
    first_line = command.help.splitlines()[0]
    head = f"<details><summary><code>{words}</code> — {first_line}</summary>"
    return "\n".join([head, "", "| option | |", "|---|---|", *rows, "", "</details>"])


def _text(parameter: Any) -> str:
    shown = (parameter.help or "").replace("|", "\\|")
    default = parameter.default
    told = default not in (None, "", False, ()) and not callable(default) and not parameter.required
    return f"{shown} Default: `{getattr(default, 'value', default)}`." if told else shown


def section() -> str:
    """All that stands between the two marks."""
    return "\n\n".join([START, *(table(words, command) for words, command in commands()), END])


def rewrite() -> None:
    """Put the section of today into the README."""
    text = README.read_text(encoding="utf-8")
    made, count = re.subn(f"{re.escape(START)}.*{re.escape(END)}", lambda _: section(), text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit("the README has no marks for its tables of options")
    README.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
