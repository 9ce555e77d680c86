"""What the README shows is what the commands print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.part import Part
from kvplan.formats import format_names, get_format
from kvplan.policies import get_policy
from kvplan.specs.catalogue import spec_files

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```bash\n([^`]*?(kvplan [^`|]*))\n```\n\n```text\n(.*?)\n```", README, re.DOTALL)


def test_the_readme_shows_commands_with_their_output() -> None:
    assert len(SHOWN) == 9
    assert "@@" not in README


def test_the_readme_counts_the_packaged_models() -> None:
    assert f"`kvplan models list` shows {len(spec_files())}" in README


@pytest.mark.parametrize(("command", "shown"), [(last, output) for _, last, output in SHOWN])
def test_the_readme_shows_what_the_command_prints(command: str, shown: str, kvplan: Callable[..., Any]) -> None:
    spelled = "kvplan " + command.rpartition("kvplan ")[2]
    done = kvplan(*shlex.split(spelled)[1:])
    assert done.code == 0
    assert [line.rstrip() for line in done.out.rstrip().splitlines()] == shown.splitlines()


@pytest.mark.parametrize("name", format_names())
def test_every_format_is_in_the_readme_with_its_bytes(name: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    shown = row.split(" | ")[2]
    if shown == "—":
        return
    chosen = get_format(name)
    key, value = (Part(name=part, num_heads=1, width=128) for part in ("key", "value"))
    assert float(shown) == float(chosen.row_bytes(key) + chosen.row_bytes(value)) / 2


def test_the_policies_in_the_readme_exist() -> None:
    table = README.partition("| policy | keeps |")[2].partition("\n\n")[0]
    named = re.findall(r"`([a-z0-9]+(?::[a-z0-9=.,]+)?)`", table)
    assert len(named) >= 8
    for text in named:
        if text != "rest=drop":
            assert get_policy(text).name == text.partition(":")[0]
