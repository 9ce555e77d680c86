"""``kvplan verify`` as a user meets it: verdict, JSON contract, exit codes, planted mistakes, reports."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("torch")

from kvplan.formats import int8_per_token_head
from kvplan.reports import to_table
from kvplan.runtime.verify import run

Run = Callable[..., Any]
SPECS = Path(__file__).parents[2] / "model_specs"
ASKED = ("verify", "--model", "gemma-3-1b", "--ctx", "1k", "--device", "cpu")
WINDOWED = "layers 0-4, 6-10, 12-16, 18-22, 24-25 sliding_window"
CHECK = {"what", "predicted_bytes", "measured_bytes", "difference_bytes", "passed"}


@pytest.fixture(autouse=True)
def allocation_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model code has tests of its own, and takes seconds; tests that are marked ``parity`` run it here too."""
    if request.node.get_closest_marker("parity") is None:
        monkeypatch.setattr(run, "USUAL_GROUPS", ("allocation",))


def planted(tmp_path: Path, name: str, right: str, wrong: str) -> str:
    """A copy of a packaged spec with one mistake; what it was published with is still known."""
    text = (SPECS / f"{name}.yaml").read_text(encoding="utf-8")
    assert right in text
    text = "\n".join(line for line in text.replace(right, wrong).splitlines() if not line.startswith("expect:"))
    path = tmp_path / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_agreement_is_said_first_and_exits_with_0(kvplan: Run) -> None:
    answer = kvplan(*ASKED)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].startswith("All ")
    assert lines[0].endswith(" checks agree to the byte")
    assert lines[1] == "kvplan verify --model gemma-3-1b --device cpu --ctx 1k"


def test_the_json_contract(kvplan: Run) -> None:
    envelope = json.loads(kvplan(*ASKED, "--json").out)
    result = envelope["result"]
    assert (envelope["command"], envelope["status"]) == ("verify", "ok")
    assert result["device"] == "cpu"
    assert result["passed"] is True
    assert all(set(check) >= CHECK for check in result["checks"])
    total = next(check for check in result["checks"] if check["what"] == "requested by all tensors")
    # 22 windows of 512 tokens and 4 layers of 1024, each K and V of one head of 256 in 2 bytes
    assert total["measured_bytes"] == (22 * 512 + 4 * 1024) * 2 * 256 * 2
    assert set(result) >= {"device", "device_facts", "request", "verdict", "checks", "passed", "skipped", "versions"}


def test_csv_has_a_line_for_each_check(kvplan: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(kvplan(*ASKED, "-f", "csv").out)))
    assert {row["passed"] for row in rows} == {"True"}
    assert "read back as written" in {row["what"] for row in rows}


@pytest.mark.parametrize(
    ("name", "right", "wrong", "layer"),
    [
        ("llama-3.2-1b", "num_kv_heads: 8", "num_kv_heads: 7", "layers 0-15 full_attention"),
        ("gemma-3-1b", "kind: sliding_window, num_kv_heads: 1, head_dim: 256, window: 512",
         "kind: full_attention, num_kv_heads: 1, head_dim: 256", WINDOWED),
        ("gemma-3-1b", "window: 512", "window: 511", WINDOWED),
        ("deepseek-v2-lite", "kv_lora_rank: 512", "kv_lora_rank: 448", "layers 0-26 latent"),
        ("deepseek-v2-lite", "qk_rope_head_dim: 64", "qk_rope_head_dim: 128", "layers 0-26 latent"),
        ("qwen3-0.6b", "head_dim: 128", "head_dim: 64", "layers 0-27 full_attention"),  # 1024 / 16 heads, as many do
        ("mamba-130m", "state_size: 16", "state_size: 15", "layers 0-23 mamba1"),
        ("mamba-130m", "conv_kernel: 4", "conv_kernel: 3", "layers 0-23 mamba1"),
        ("lfm2-8b-a1b", "conv_kernel: 3", "conv_kernel: 4", "short_conv"),
        ("qwen3-next-80b-a3b", ", v_head_dim: 128", ", v_head_dim: 64", "gated_delta_net"),
        ("bart-base", "kind: cross_attention, num_kv_heads: 12", "kind: cross_attention, num_kv_heads: 6",
         "layers 0-5 full_attention + cross_attention"),
    ],
)  # fmt: skip
def test_a_wrong_spec_exits_with_4_and_names_the_layer(
    name: str, right: str, wrong: str, layer: str, kvplan: Run, tmp_path: Path
) -> None:
    assert layer in wrong_layers(kvplan, planted(tmp_path, name, right, wrong))


def wrong_layers(kvplan: Run, spec: str) -> str:
    """The names of all figures that differ, of a verification that fails."""
    answer = kvplan("verify", "--model", spec, "--ctx", "1k", "--device", "cpu", "--json")
    assert answer.code == 4, answer.err
    result = json.loads(answer.out)["result"]
    assert result["passed"] is False
    assert " differ" in result["verdict"]
    return "; ".join(check["what"] for check in result["checks"] if not check["passed"])


def test_a_wrong_period_of_the_pattern_is_caught_in_the_layers_that_it_moves(kvplan: Run, tmp_path: Path) -> None:
    right = "{pattern: [win, win, win, win, win, full], repeat: 4}"
    spec = planted(tmp_path, "gemma-3-1b", right, "{pattern: [win, win, win, full], repeat: 6}")
    wrong = wrong_layers(kvplan, spec)
    # every 4th layer full instead of every 6th: 11 and 23 are right by chance; the others are named as they really are
    assert wrong.startswith("layers 3, 7, 15, 19 sliding_window; layers 5, 17 full_attention; ")


@pytest.mark.parametrize(("layers", "wrong"), [(15, "layer 15 full_attention"), (17, "layer 16 full_attention")])
def test_a_wrong_number_of_layers_is_caught_in_the_layer_that_one_lacks(
    layers: int, wrong: str, kvplan: Run, tmp_path: Path
) -> None:
    spec = planted(tmp_path, "llama-3.2-1b", "repeat: 16}\nnum_layers: 16", f"repeat: {layers}}}\nnum_layers: {layers}")
    assert wrong in wrong_layers(kvplan, spec)


def test_a_forgotten_scale_exits_with_4_and_names_the_layer(kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_per_token_head, "FORMAT", replace(int8_per_token_head.FORMAT, scale_bytes=0))
    answer = kvplan("verify", "--model", "smollm2-135m", "--ctx", "1k", "--kv-dtype", "int8", "--device", "cpu")
    assert answer.code == 4
    assert "layers 0-29 full_attention: " in answer.out.replace("\n", " ")
    assert "DIFFERS" in answer.out


@pytest.mark.parity
@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="transformers is not installed")
def test_the_models_own_code_contradicts_a_wrong_spec(kvplan: Run, tmp_path: Path) -> None:
    spec = planted(tmp_path, "smollm2-135m", "num_kv_heads: 3", "num_kv_heads: 2")
    answer = kvplan("verify", "--model", spec, "--ctx", "1k", "--device", "cpu", "--json")
    checks = json.loads(answer.out)["result"]["checks"]
    assert answer.code == 4
    failed = [check for check in checks if not check["passed"]]
    assert {check["group"] for check in failed} == {"allocation", "model code"}
    assert "layer 0 full_attention" in {check["what"] for check in failed}


def test_too_much_for_the_device_is_refused_with_a_context_that_fits(kvplan: Run) -> None:
    answer = kvplan("verify", "--model", "llama-405b", "--ctx", "128k", "-n", "500", "--device", "cpu")
    assert answer.code == 2
    assert answer.err.startswith("error: the cache takes ")
    assert "fits (--ctx " in answer.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--ctx", "8k"), "--ctx says nothing without --model"),
        (("--model", "gemma-3-1b", "--device", "tpu"), "unknown device 'tpu'"),
        (("--model", "gemma-3-1b", "--report", "out.txt"), "--report out.txt"),
        (("--model", "gemma-3-1b", "--report", "no/such/folder/out.json"), "there is no folder"),
        (("--diff", "no-such.json"), "no-such.json"),
        (("--diff", __file__), "is not valid JSON"),
        (("--frontier",), "--frontier says nothing without --model"),
        (("--model", "no-such-model"), "unknown model 'no-such-model'"),
        (("--model", "gemma-3-1b", "--engine-python", "python3"), "--engine-python says nothing without --against"),
        (("--model", "gemma-3-1b", "--policy", "h2o:keep=0.2", "--frontier"), "drop no tokens"),
    ],
)
def test_bad_input_is_one_clear_line(options: tuple[str, ...], problem: str, kvplan: Run) -> None:
    answer = kvplan("verify", *options)
    assert answer.code == 2
    assert problem in answer.err.splitlines()[0]


@pytest.mark.skipif(pytest.importorskip("torch").cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("options", [("--device", "cuda"), ("--model", "gemma-3-1b", "--device", "cuda:1")])
def test_a_gpu_that_is_not_there_is_one_clear_line(options: tuple[str, ...], kvplan: Run) -> None:
    answer = kvplan("verify", *options)
    assert answer.code == 2
    assert answer.err.splitlines()[0].endswith("sees no GPU here")


def test_the_engines_options_are_those_of_what_is_built(kvplan: Run) -> None:
    # llama.cpp keeps windows at the whole context with --swa-full: 26 layers of 1 head of 256, K and V, fp16
    answer = kvplan(*ASKED, "--engine", "llamacpp:swa_full=true", "--json")
    assert answer.code == 0, answer.out
    result = json.loads(answer.out)["result"]
    measured = [check["measured_bytes"] for check in result["checks"] if "requested" in check["what"]]
    assert measured == [26 * 1024 * 2 * 256 * 2]


def test_size_repeats_the_engine_with_its_options(kvplan: Run) -> None:
    words = ("size", "-m", "gemma-3-1b", "-c", "1k", "--verify", "--json")
    answer = kvplan(*words, "-e", "none", "-e", "llamacpp:swa_full=true")
    results = json.loads(answer.out)["result"]["results"]
    assert answer.code == 0
    asked = [entry["verify"]["request"].get("engine") for entry in results]
    assert asked[0] is None
    assert asked[1].startswith("llamacpp@")
    assert asked[1].endswith(":swa_full=true")


def test_without_torch_one_line_says_what_to_install(kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    for command in (ASKED, ("size", "-m", "gemma-3-1b", "--verify")):
        answer = kvplan(*command)
        assert answer.code == 2
        assert "pip install '.[torch]'" in answer.err.splitlines()[0]


def test_without_transformers_model_code_is_left_out_with_the_reason(
    kvplan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "USUAL_GROUPS", ("allocation", "model code"))
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    answer = kvplan(*ASKED)
    assert answer.code == 0
    assert "not run: model code: transformers is not installed" in answer.out


def test_a_report_repeats_its_request_and_is_compared(kvplan: Run, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    assert kvplan(*ASKED, "--report", str(path)).code == 0
    answer = kvplan("verify", "--diff", str(path))
    assert answer.code == 0
    assert "kvplan verify --model gemma-3-1b --device cpu --ctx 1k" in answer.out
    assert f"Since {path}: nothing changed" in answer.out.replace("\n", "")
    changed = json.loads(kvplan(*ASKED, "--kv-dtype", "int8", "--diff", str(path), "--json").out)["result"]["diff"]
    assert changed["same"] is False
    assert changed["around"][0] == {"name": "kv-dtype", "old": "none", "new": "int8"}


def test_two_reports_are_compared_without_running_anything(kvplan: Run, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    kvplan(*ASKED, "--report", str(old))
    envelope = json.loads(old.read_text(encoding="utf-8"))
    envelope["result"]["checks"][0]["measured_bytes"] += 512
    new.write_text(json.dumps(envelope), encoding="utf-8")
    answer = kvplan("verify", "--diff", str(old), "--diff", str(new))
    assert answer.code == 4
    assert "now differs: layers 0-4" in answer.out


def test_a_markdown_report_can_be_attached_to_a_ticket(kvplan: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.md"
    kvplan(*ASKED, "--report", str(path))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("**All ")
    assert "torch " in text
    assert "| requested by all tensors |" in text


def test_size_verifies_each_of_its_answers(kvplan: Run) -> None:
    answer = kvplan("size", "-m", "gemma-3-1b", "-c", "512,1k", "--verify", "--json")
    results = json.loads(answer.out)["result"]["results"]
    assert answer.code == 0
    assert [entry["verify"]["request"]["ctx"] for entry in results] == ["512", "1024"]
    assert all(entry["verify"]["passed"] for entry in results)
    measured = [check["measured_bytes"] for check in results[1]["verify"]["checks"] if "requested" in check["what"]]
    assert measured == [results[1]["geometry_bytes"]]


def test_size_without_the_flag_has_no_verify(kvplan: Run) -> None:
    assert "verify" not in json.loads(kvplan("size", "-m", "gemma-3-1b", "-c", "1k", "--json").out)["result"]


def test_size_with_a_wrong_spec_exits_with_4(kvplan: Run, tmp_path: Path) -> None:
    spec = planted(tmp_path, "llama-3.2-1b", "num_kv_heads: 8", "num_kv_heads: 9")
    answer = kvplan("size", "-m", spec, "-c", "512", "--verify")
    assert answer.code == 4
    assert "layers 0-15 full_attention" in answer.out


def test_fit_prints_measured_beside_predicted(kvplan: Run) -> None:
    answer = kvplan("fit", "--model", "smollm2-135m", "--gpu", "h100", "--ctx", "1k", "--verify", "--json")
    verified = json.loads(answer.out)["result"]["verify"]
    assert answer.code == 0
    assert verified["passed"] is True
    assert {check["group"] for check in verified["checks"]} >= {"allocation"}
    assert verified["request"]["engine"].startswith("vllm@")


@pytest.mark.parametrize("command", [ASKED, ("size", "-m", "gemma-3-1b", "-c", "1k", "--verify")])
def test_tables_fit_80_columns(command: tuple[str, ...], kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_table, "stdout_console", lambda: Console(width=80, highlight=False, color_system=None))
    assert max(map(len, kvplan(*command).out.splitlines())) <= 80


def test_alone_it_checks_the_standard_set(kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvplan.runtime.verify import standard

    few = tuple(entry._replace(groups=("allocation",)) for entry in standard.STANDARD_SET[:3])
    monkeypatch.setattr(standard, "STANDARD_SET", few)
    answer = kvplan("verify", "--device", "cpu")
    assert answer.code == 0
    for entry in few:
        assert entry.subject in answer.out


def test_every_model_and_option_of_the_standard_set_can_be_sized() -> None:
    from kvplan.runtime.verify.standard import STANDARD_SET, standard_cases

    cases = standard_cases()
    assert [case.subject for case in cases] == [entry.subject for entry in STANDARD_SET]
    assert len({case.subject for case in cases}) == len(cases)


def test_an_engine_that_nobody_can_start_is_refused_with_those_that_can_be(kvplan: Run) -> None:
    answer = kvplan(*ASKED, "--against", "vlm")
    assert answer.code == 2
    assert "unknown engine to verify against 'vlm'" in answer.err
    assert "vllm" in answer.err
