"""The quick start must understand a command exactly as typer does, or leave it alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer.main

from kvplan.cli.app import app
from kvplan.cli.options import OutputFormat
from kvplan.cli.quick_start import quick_arguments
from kvplan.cli.size import size

PLAIN = [
    ["--model", "llama-70b", "--ctx", "128k"],
    ["-m", "a", "-m", "b", "-c", "8k", "-c", "32k,64k", "-n", "4"],
    ["-m", "a", "--tp", "8", "--pp", "2", "--mtp", "--json", "--explain"],
    ["-m", "a", "-f", "csv", "-d", "q8_0/q4_0", "--policy", "window:4096,sinks=4"],
    ["--json", "-m", "a", "--weights", "int4-awq", "-e", "none", "--kv-dtype-skip-layers", "0,1"],
]
LEFT_TO_TYPER = [
    [],
    ["--help"],
    ["--ctx", "128k"],
    ["-m"],
    ["-m", "a", "--ctx=128k"],
    ["-m", "a", "--ctx", "-1"],
    ["-m", "a", "--tp", "two"],
    ["-m", "a", "-f", "xml"],
    ["-m", "a", "--unknown", "1"],
    ["-m", "a", "stray"],
    ["-ma"],
]


def typers_arguments(words: list[str]) -> dict[str, Any]:
    command: Any = typer.main.get_command(app)
    size_command = command.commands["size"]
    context = size_command.make_context("size", list(words))
    return dict(context.params)


@pytest.mark.parametrize("words", PLAIN, ids=" ".join)
def test_plain_words_mean_the_same_to_both(words: list[str]) -> None:
    quick = quick_arguments(size, words)
    assert quick is not None
    defaults = {name: entry.default for name, entry in inspect.signature(size).parameters.items()}
    expected = typers_arguments(words)
    for name, value in {**defaults, **quick}.items():
        stated = expected[name]
        if isinstance(value, OutputFormat):
            stated = OutputFormat(stated)
        if isinstance(stated, tuple):
            stated = list(stated)
        assert stated == value or (value is None and not stated), name


@pytest.mark.parametrize("words", LEFT_TO_TYPER, ids=" ".join)
def test_what_is_not_plain_is_left_to_typer(words: list[str]) -> None:
    assert quick_arguments(size, words) is None
