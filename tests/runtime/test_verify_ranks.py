"""Ranks of torchrun: which heads each holds, and two real processes on the CPU."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from typing import NoReturn

import pytest

pytest.importorskip("torch")

from kvplan import size
from kvplan.cli import verify_run
from kvplan.cli.verify_run import verify_rank
from kvplan.core.errors import DoesNotFitError, UsageError
from kvplan.core.parallel import Parallel
from kvplan.runtime.verify.ranks import Rank, _plain, held_heads, held_words, launched_rank
from kvplan.specs.reference import resolve_model


def torchrun(*options: str) -> subprocess.CompletedProcess[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kvplan", "verify")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "--device", "cpu", *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


def test_heads_are_split_and_the_last_rank_may_hold_fewer() -> None:
    assert [list(held_heads(10, position, 4)) for position in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_fewer_heads_than_ranks_are_copied() -> None:
    assert [list(held_heads(2, position, 8)) for position in range(8)] == [[0]] * 4 + [[1]] * 4


def test_every_head_is_held_by_some_rank() -> None:
    for num_heads in range(1, 20):
        for ranks in range(1, 20):
            held = {head for position in range(ranks) for head in held_heads(num_heads, position, ranks)}
            assert held == set(range(num_heads)), (num_heads, ranks)


def test_uneven_heads_and_replicated_latents_are_put_into_words() -> None:
    phi = resolve_model("phi-4")  # 10 KV heads
    assert held_words(phi, Parallel(tp=4), 3) == "key and value head 9 of 10, counted as 3"
    latent = resolve_model("deepseek-v2-lite")
    assert held_words(latent, Parallel(tp=2), 1) == "latent and rope whole, as on every rank"
    copied = resolve_model("qwen2.5-0.5b")  # 2 KV heads
    assert held_words(copied, Parallel(tp=4), 2) == "key and value head 1 of 2, a copy"


def test_a_rank_knows_its_stage_and_its_own_gpu() -> None:
    rank = launched_rank({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert rank == Rank(index=5, size=8, local=1)
    assert [Rank(index=i, size=8, local=i).stage(Parallel(tp=2, pp=2, dp=2)) for i in range(8)] == [0, 0, 1, 1] * 2
    assert rank.device_word("cuda") == "cuda:1"
    assert rank.device_word("cpu") == "cpu"
    assert launched_rank({}) is None


def test_as_many_processes_as_ranks_are_needed() -> None:
    with pytest.raises(UsageError, match="2 processes were started for the 4 ranks of --tp 4 x --pp 1 x --dp 1"):
        Rank(index=0, size=2, local=0).check(Parallel(tp=4))


def test_two_processes_allocate_a_shard_each_and_one_reports() -> None:
    done = torchrun("--model", "gemma-3-1b", "--ctx", "1k", "--tp", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["passed"]
    totals = {
        entry["subject"]: entry["measured_bytes"]
        for entry in result["checks"]
        if entry["what"] == "requested by all tensors"
    }
    predicted = size("gemma-3-1b", "1k", tp=2).allocated_bytes_per_rank
    assert totals == {"rank 0": predicted[0], "rank 1": predicted[1]}
    assert result["shares"] == {f"rank {index}": "key and value head 0 of 1, a copy" for index in range(2)}
    groups = {(entry["subject"], entry["group"]) for entry in result["checks"]}
    code = {("rank 0", "model code")} if find_spec("transformers") else set()
    assert groups == {("rank 0", "allocation"), ("rank 1", "allocation")} | code


def test_the_table_shows_what_each_rank_holds() -> None:
    done = torchrun("--model", "deepseek-v2-lite", "--ctx", "1k", "--tp", "2", "--kv-dtype", "fp8")
    assert done.returncode == 0, done.stderr
    assert "rank 1: latent and rope whole, as on every rank " in done.stdout


def test_a_memory_too_small_keeps_its_kind_across_ranks() -> None:
    plain = _plain(DoesNotFitError("the cache takes 2 GiB", "a context of 145 fits"), "rank 0: ")
    again = pickle.loads(pickle.dumps(plain))
    assert (again.message, again.hint) == ("rank 0: the cache takes 2 GiB", "a context of 145 fits")
    assert (again.code, again.exit_code) == ("does_not_fit", 2)


def test_model_code_runs_on_the_first_rank_and_engines_on_none() -> None:
    first, second = (Rank(index=index, size=2, local=index) for index in range(2))
    assert first.groups(("allocation", "model code", "frontier")) == ("allocation", "model code", "frontier")
    assert second.groups(("allocation", "model code", "frontier")) == ("allocation", "frontier")
    with pytest.raises(UsageError, match="--against starts an engine of one rank"):
        first.groups(("allocation", "engine"))


def test_an_error_of_all_ranks_is_said_by_the_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NoReturn:
        raise UsageError("no such context")

    monkeypatch.setattr(verify_run, "ERROR_SECONDS", 0)
    with pytest.raises(UsageError, match="no such context"):
        verify_rank(Rank(index=0, size=2, local=0), refuse, {}, "cpu")
    with pytest.raises(SystemExit) as stopped:
        verify_rank(Rank(index=1, size=2, local=1), refuse, {}, "cpu")
    assert stopped.value.code == 2
