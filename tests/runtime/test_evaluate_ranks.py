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

from evaluate_rank import ran

from kvplan.core.errors import EvaluationError, KvplanError, UnknownNameError
from kvplan.runtime.evaluate import run as run_module
from kvplan.runtime.evaluate.ranks import Share, _guarded, joined
from kvplan.runtime.verify.ranks import Rank

WORKER = str(Path(__file__).parent / "evaluate_rank.py")
ORDER = [
    ["latency", "none", "t"],
    ["latency", "fp8_e4m3", "t"],
    *(["qa", method, f"{at}{name}"] for at in range(4) for method in ("none", "fp8_e4m3") for name in "ab"),
]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Any]]]:
    """The folder of two processes that ran well, then met an error, and of which then one died; what they told by mode.

    One launch for all, as starting takes longer than running.
    """
    folder = tmp_path_factory.mktemp("ranks")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, WORKER, str(folder), "well", "blind", "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode != 0
    lines = sorted(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    found: dict[str, list[Any]] = {}
    for index, mode, told in lines:
        assert index == len(found.setdefault(mode, []))
        found[mode].append(told)
    assert set(found) == {"well", "blind"}, done.stderr
    return folder, found


def test_two_processes_share_the_pieces_and_both_get_all_records(launched: Any) -> None:
    folder, found = launched
    first, second = found["well"]
    assert [record[:3] for record in first] == ORDER
    assert first == second
    ranks = {sample: rank for task, _, sample, rank in first if task == "qa"}
    assert ranks == {"0a": "0", "0b": "0", "1a": "1", "1b": "1", "2a": "0", "2b": "0", "3a": "1", "3b": "1"}
    assert {rank for task, _, _, rank in first if task == "latency"} == {"0"}  # while the other one waits
    assert not (folder / "well.rank1.jsonl").exists()
    assert len((folder / "well.jsonl").read_text().splitlines()) == 1 + len(ORDER)


def test_an_error_of_one_process_is_raised_on_all(launched: Any) -> None:
    assert launched[1]["blind"] == [["EvaluationError", "rank 1: self-check: blind"]] * 2


def test_what_two_processes_left_when_one_died_is_taken_up_by_one_alone(
    launched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = launched
    monkeypatch.setattr(run_module, "self_check", None)  # restored, whatever ``ran`` puts there
    path = folder / "killed.jsonl"
    kept = path.read_text().splitlines() if path.exists() else []
    found = ran(folder, "killed", Share())
    assert [record[:3] for record in found] == ORDER
    assert sum(record[3] == "0" for record in found) == max(0, len(kept) - 1)
    assert len(path.read_text().splitlines()) == 1 + len(ORDER)
    assert not (folder / "killed.rank1.jsonl").exists()


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
