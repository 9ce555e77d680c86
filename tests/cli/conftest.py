from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kvplan.cli.main import run


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def kvplan(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command line in this process: ``kvplan("size", "--model", …)``."""

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call
