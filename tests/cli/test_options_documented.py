"""The README's tables of options are what ``--help`` says, and every command that the documents show can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from option_tables import END, START, commands, parameters, section, spellings

from kvplan.cli.panels import PANELS

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "model_specs" / "README.md", ROOT / "tests" / "parity" / "README.md")
COMMANDS = dict(commands())
ANYWHERE = {"--help", "-h"}


def shown_commands() -> list[str]:
    """What documents show after ``kvplan ``, in blocks and in running text, without what a shell does with it."""
    found: set[str] = set()
    for document in DOCUMENTS:
        text = re.sub(r"\\\n\s*", "", document.read_text(encoding="utf-8"))
        blocks = "\n".join(re.findall(r"```(?:bash|console)\n(.*?)```", text, re.DOTALL))
        inline = re.findall(r"`([^`\n]*kvplan [^`\n]*)`", text)
        for line in [*blocks.splitlines(), *inline]:
            found |= {"kvplan " + piece for piece in re.findall(r"(?:^|[\s;&])kvplan ([a-z][^|#>&]*)", line)}
    return sorted(found)


def test_the_readme_lists_every_option_of_every_command() -> None:
    readme = DOCUMENTS[0].read_text(encoding="utf-8")
    listed = START + readme.partition(START)[2].partition(END)[0] + END
    assert listed == section(), "run python tests/cli/option_tables.py"


def test_every_box_of_options_names_options_that_exist() -> None:
    known = {spelled for command in COMMANDS.values() for entry in parameters(command) for spelled in spellings(entry)}
    flags = [flag for box in PANELS.values() for flag in box.split()]
    assert set(flags) <= known
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_help_names_and_explains_every_option(
    words: str, kvplan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = kvplan(*words.split()[1:], "--help")
    assert done.code == 0
    for parameter in parameters(COMMANDS[words]):
        assert parameter.help, f"{words} {parameter.name} says nothing of itself"
        assert all(spelled in done.out for spelled in spellings(parameter))


@pytest.mark.parametrize("shown", shown_commands())
def test_every_command_that_the_documents_show_can_be_typed(shown: str) -> None:
    words = [word for word in shlex.split(shown.replace("…", "")) if word != "..."]
    name = next((" ".join(words[:size]) for size in (3, 2) if " ".join(words[:size]) in COMMANDS), None)
    if name is None:
        assert len(words) == 2, f"no such command: {shown}"
        assert any(known.startswith(" ".join(words)) for known in COMMANDS), f"no such command: {shown}"
        return
    known = {spelled for parameter in parameters(COMMANDS[name]) for spelled in spellings(parameter)} | ANYWHERE
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known, f"{name} has no {', '.join(sorted(used - known))}"


def test_documents_show_every_command() -> None:
    shown = " ".join(shown_commands())
    assert [words for words in COMMANDS if words not in shown] == []
