"""Data-parallel evaluation: two real processes on the CPU, joined by torchrun, and one alone."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from kvplan.core.errors import EvaluationError, KvplanError, UnknownNameError
from kvplan.runtime.evaluate.ranks import Share, _guarded, joined
from kvplan.runtime.verify.ranks import Rank

WORKER = str(Path(__file__).parent / "evaluate_rank.py")
ORDER = [
    ["latency", "none", "t"],
    ["latency", "fp8_e4m3", "t"],
    *(["qa", method, f"{at}{name}"] for at in range(4) for method in ("none", "fp8_e4m3") for name in "ab"),
]


def launched(path: Path, mode: str, processes: int = 2) -> list[Any]:
    """What each process printed, by rank."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    alone = [sys.executable, WORKER, str(path), mode]
    command = [sys.executable, *launcher, *alone[1:]] if processes > 1 else alone
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert found or mode == "killed", done.stderr
    return sorted(found)


def test_two_processes_share_the_pieces_and_both_get_all_records(tmp_path: Path) -> None:
    path = tmp_path / "quality.jsonl"
    first, second = launched(path, "well")
    assert [found[:3] for found in first[1]] == ORDER
    assert first[1] == second[1]
    ranks = {sample: rank for task, _, sample, rank in first[1] if task == "qa"}
    assert ranks == {"0a": "0", "0b": "0", "1a": "1", "1b": "1", "2a": "0", "2b": "0", "3a": "1", "3b": "1"}
    assert {rank for task, _, _, rank in first[1] if task == "latency"} == {"0"}  # while the other one waits
    assert os.listdir(tmp_path) == ["quality.jsonl"]
    assert len(path.read_text().splitlines()) == 1 + len(ORDER)


def test_what_two_processes_left_when_one_died_is_taken_up_by_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "quality.jsonl"
    launched(path, "killed")
    assert [name for name in os.listdir(tmp_path) if "rank" not in name] in ([], ["quality.jsonl"])
    kept = path.read_text().splitlines() if path.exists() else []
    ((_, found),) = launched(path, "well", processes=1)
    assert [each[:3] for each in found] == ORDER
    assert sum(each[3] == "0" for each in found) == max(0, len(kept) - 1)
    assert os.listdir(tmp_path) == ["quality.jsonl"]


def test_an_error_of_one_process_is_raised_on_all(tmp_path: Path) -> None:
    told = ["EvaluationError", "rank 1: self-check: blind"]
    assert launched(tmp_path / "quality.jsonl", "blind") == [[0, *told], [1, *told]]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EvaluationError("blind", "a hint"), EvaluationError),
        (UnknownNameError("method", "intt8", ["int8"]), KvplanError),
    ],
)
def test_an_error_travels_with_its_hint_and_where_it_can_with_its_kind(error: KvplanError, kind: type) -> None:
    def fail() -> list[int]:
        raise error

    sent = pickle.loads(pickle.dumps(_guarded(fail, 3)))
    assert type(sent) is kind
    assert (sent.message, sent.hint) == (f"rank 3: {error.message}", error.hint)


def test_one_process_alone_needs_no_group() -> None:
    for rank in (None, Rank(index=0, size=1, local=0)):
        with joined(rank) as share:
            assert share == Share()
            assert share.gathers
            assert share.of("abc") == "abc"
            assert share.gather(lambda: [1, 2]) == [1, 2]


def test_an_error_of_one_alone_is_raised_as_it_is() -> None:
    def fail() -> list[int]:
        raise EvaluationError("blind", "a hint")

    with pytest.raises(EvaluationError, match=r"^blind$"):
        Share().gather(fail)


def test_every_piece_is_somebodys_and_nobody_elses() -> None:
    items = list(range(17))
    for size in range(1, 20):
        shares = [Share(index=index, size=size).of(items) for index in range(size)]
        assert sorted(item for share in shares for item in share) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
