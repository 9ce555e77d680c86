"""The README's story of one model: what it shows of verify and evaluate, and its pictures, are what kvplan makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kvplan.cli.evaluate_run import DEMO_METHODS
from kvplan.reports.evaluate_pictures import evaluation_figures
from kvplan.reports.evaluate_rows import as_asked
from kvplan.reports.evaluate_table import print_evaluation
from kvplan.reports.plot import write_figure
from kvplan.specs.evidence import read_evaluation

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SESSIONS = dict(re.findall(r"```console\n\$ kvplan ([^\n]*)\n(.*?)\n```", README, re.DOTALL))
MEASURED = ROOT / "tests" / "vectors" / "evaluate_demo.json"
"""``kvplan evaluate --demo --json`` of this release on two cores of an AMD EPYC."""

DEPENDS_ON_THE_MACHINE = ("on ", "transformers ", "kvplan ")


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def measured() -> Any:
    methods = pytest.importorskip("kvplan.runtime.evaluate.methods")
    asked = methods.named_methods(DEMO_METHODS)
    return as_asked(read_evaluation(MEASURED), {method.text: words for method, words in asked.items()})


def test_the_evaluation_that_is_shown_is_the_one_that_is_stored() -> None:
    written = StringIO()
    print_evaluation(measured(), Console(file=written, width=100, highlight=False))
    assert lines(written.getvalue()) == lines(SESSIONS["evaluate --demo --plot evaluate_demo.svg"])


def test_the_picture_of_the_evaluation_is_drawn_from_it(tmp_path: Path) -> None:
    write_figure(tmp_path / "made.svg", evaluation_figures(measured()))
    assert (tmp_path / "made.svg").read_bytes() == (ROOT / "docs" / "evaluate_demo.svg").read_bytes()


def test_the_picture_of_the_fit_is_drawn_by_the_command(kvplan: Callable[..., Any], tmp_path: Path) -> None:
    command = "fit -m llama-8b --gpu h100 --ctx 32k --concurrency 16"
    assert f"```bash\nkvplan {command}\n```" in README
    assert kvplan(*command.split(), "--plot", str(tmp_path / "made.svg")).code == 0
    assert (tmp_path / "made.svg").read_bytes() == (ROOT / "docs" / "fit.svg").read_bytes()


def test_the_verification_that_is_shown_is_what_the_command_finds(kvplan: Callable[..., Any]) -> None:
    pytest.importorskip("transformers")
    command = "verify -m llama-8b --ctx 32k --kv-dtype fp8"
    done = kvplan(*command.split())
    assert done.code == 0
    found, shown = (
        [line for line in lines(text) if not line.startswith(DEPENDS_ON_THE_MACHINE)]
        for text in (done.out, SESSIONS[command])
    )
    assert found == shown
