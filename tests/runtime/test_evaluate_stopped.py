"""Runs of the command on the demo model that are killed and go on, or are shared: the same numbers as in one piece."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from kvplan.cli.main import run

WORDS = (
    *("evaluate", "--demo", "--ctx", "256", "--samples", "4", "--methods", "int8,window:64"),
    *("--tasks", "perplexity,needle", "--json"),
)
NUM_RECORDS = 3 * (4 + 5)
"""Baseline and two methods: 4 texts, and one needle for each of 5 depths."""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""One thread, as sums over another number of threads differ in the last digit."""


def command(*words: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """The words in a process of their own."""
    return [sys.executable, "-m", *launcher, "kvplan", *words]


def finished(*words: str) -> dict[str, Any]:
    """The ``result`` of a run to the end, in this process, which has torch and has it at one thread."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(words) in (0, 4)
    answer: dict[str, Any] = json.loads(out.getvalue())["result"]
    return answer


def records(path: Path) -> dict[tuple[str, str, str], Any]:
    """Values by task, method and sample. Fails where one is there twice."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        record = json.loads(line)
        key = record["task"], record["method"], record["sample"]
        assert key not in found
        found[key] = record["values"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[tuple[str, str, str], Any]]:
    """Result and records of a run in one piece."""
    path = tmp_path_factory.mktemp("whole") / "quality.jsonl"
    return finished(*WORDS, "--results", str(path)), records(path)


def listen_to_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(kill: signal.Signals, after: int, path: Path) -> tuple[int, str]:
    """Start a run, send it a signal once ``after`` records are there, and return its exit code and what it told."""
    with subprocess.Popen(
        command(*WORDS, "--results", str(path)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=listen_to_ctrl_c,
    ) as running:  # fmt: skip
        while running.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") <= after):
            time.sleep(0.02)
        running.send_signal(kill)
        out, told = running.communicate(timeout=60)
    assert out == ""
    assert after <= path.read_bytes().count(b"\n") - 1 < NUM_RECORDS  # midway, not when it was done
    return running.returncode, told


def test_a_run_that_is_stopped_and_then_killed_goes_on_to_the_same_numbers(whole: Any, tmp_path: Path) -> None:
    path = tmp_path / "quality.jsonl"
    told = f"stopped: the same command goes on from {path}\n"
    assert stopped(signal.SIGINT, 3, path) == (130, told)
    assert stopped(signal.SIGKILL, 14, path) == (-signal.SIGKILL, "")
    assert finished(*WORDS, "--results", str(path)) == whole[0]
    assert records(path) == whole[1]


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"),
    "accelerate": ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m"),
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_processes_make_the_records_of_one(name: str, whole: Any, tmp_path: Path) -> None:
    """``torchrun --nproc-per-node 2 -m kvplan evaluate ...``; ``accelerate launch --num-processes 2`` alike."""
    if name == "accelerate" and find_spec("accelerate") is None:
        pytest.skip("needs accelerate")
    path, launcher = tmp_path / "quality.jsonl", LAUNCHERS[name]
    done = subprocess.run(
        command(*WORDS, "--results", str(path), launcher=launcher),
        capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["quality.jsonl"]
    assert records(path) == whole[1]
    assert json.loads(done.stdout)["result"] == whole[0]  # one answer, of the first process
