"""``kvplan fit`` as a user meets it: the JSON contract, the verdict, logs, workloads, pictures and bad input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kvplan.reports import to_table

Run = Callable[..., Any]
GIB = 1 << 30
LOGS = Path(__file__).parent.parent / "assets" / "logs"

RESULT = {
    "fits", "starts", "refusal", "model", "accelerator", "placement", "request", "budget_per_rank", "certainty",
    "num_blocks", "capacity_tokens", "max_concurrency", "max_concurrency_at_context", "max_context_tokens",
    "kv_bytes_needed", "engine_log_line", "suggestions",
}  # fmt: skip
BUDGET = {
    "requested_bytes", "weights_bytes", "activation_bytes", "cuda_graph_bytes", "non_torch_bytes", "kv_cache_bytes",
    "unused_bytes", "missing_bytes",
}  # fmt: skip
MEASURED = {
    "weights_bytes", "activation_bytes", "cuda_graph_bytes", "non_torch_bytes", "kv_cache_bytes", "capacity_tokens",
    "max_concurrency",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPLAN_CONFIG_DIR", str(tmp_path / "config"))


def answer(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out)["result"]
    return result


def fit(kvplan: Run, *words: str) -> dict[str, Any]:
    return answer(kvplan("fit", *words, "--json"))


def test_the_json_keys_are_a_contract(kvplan: Run) -> None:
    result = fit(kvplan, "-m", "llama-3.1-8b", "--gpu", "h100", "--ctx", "8k", "-n", "16")
    assert set(result) == RESULT
    assert set(result["accelerator"]) == {"name", "count", "memory_bytes"}
    assert set(result["placement"]) == {"tp", "pp", "dp", "dcp", "ep"}
    assert set(result["budget_per_rank"][0]) >= BUDGET
    assert result["fits"] is True
    assert result["suggestions"] == []


def test_every_byte_of_a_rank_is_accounted_for(kvplan: Run) -> None:
    result = fit(kvplan, "-m", "llama-70b", "--gpu", "4xh200", "--ctx", "32k")
    assert len(result["budget_per_rank"]) == result["accelerator"]["count"] == 4
    for rank in result["budget_per_rank"]:
        lines = ("weights_bytes", "activation_bytes", "cuda_graph_bytes", "non_torch_bytes", "kv_cache_bytes")
        assert sum(rank[line] for line in lines) == rank["requested_bytes"]
        assert rank["requested_bytes"] + rank["unused_bytes"] == result["accelerator"]["memory_bytes"]


def test_the_length_the_engine_starts_for_defaults_to_the_context_and_then_to_the_models_own(kvplan: Run) -> None:
    assert fit(kvplan, "-m", "llama-3.1-8b", "--gpu", "h100", "--ctx", "8k")["request"]["max_model_len"] == 8192
    assert fit(kvplan, "-m", "llama-3.1-8b", "--gpu", "h100")["request"]["max_model_len"] == 131072


def test_the_capacity_is_the_one_that_size_says_for_the_memory_left(kvplan: Run) -> None:
    result = fit(kvplan, "-m", "gemma-3-27b", "--gpu", "h200", "--ctx", "32k")
    memory = str(result["budget_per_rank"][0]["kv_cache_bytes"])
    batch = str(result["request"]["max_num_batched_tokens"])
    words = ("-m", "gemma-3-27b", "-c", "32k", "-e", "vllm", "--gpu", "h200", "--kv-memory", memory)
    sized = answer(kvplan("size", *words, "--max-num-batched-tokens", batch, "--json"))
    assert sized["capacity_tokens"] == result["capacity_tokens"]
    assert sized["num_blocks"] == result["num_blocks"]


def test_check_exits_with_3_when_it_does_not_fit_and_says_what_would(kvplan: Run) -> None:
    done = kvplan("fit", "-m", "llama-70b", "--gpu", "h100", "--ctx", "8k", "--check", "--json")
    assert done.code == 3
    result = json.loads(done.out)["result"]
    assert not result["fits"]
    assert result["budget_per_rank"][0]["missing_bytes"] > 0
    assert any(entry["fits"] and "--tp" in entry["option"] for entry in result["suggestions"])
    assert kvplan("fit", "-m", "llama-3.1-8b", "--gpu", "h100", "--ctx", "8k", "--check").code == 0


def test_a_suggestion_fits_when_it_is_taken(kvplan: Run) -> None:
    words = ("-m", "llama-70b", "--gpu", "4xh200", "--ctx", "32k", "--concurrency", "64")
    suggestions = [entry for entry in fit(kvplan, *words)["suggestions"] if entry["fits"]]
    assert suggestions
    taken = next(entry for entry in suggestions if entry["option"].startswith("--kv-dtype"))
    assert fit(kvplan, *words, *taken["option"].split())["fits"] is True


def test_tables_fit_80_columns_with_and_without_suggestions(kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_table, "stdout_console", lambda: Console(width=80, highlight=False, color_system=None))
    for model, verdict in (("llama-3.1-8b", "Fits: "), ("llama-70b", "Does not start")):
        out = kvplan("fit", "-m", model, "--gpu", "h100", "--ctx", "8k", "-n", "16").out
        assert verdict in out
        assert "KV cache" in out
        assert max(map(len, out.splitlines())) <= 80, out


def test_explain_writes_every_line_as_an_equation(kvplan: Run) -> None:
    out = kvplan("fit", "-m", "llama-3.1-8b", "--gpu", "h200", "--ctx", "8k", "--explain").out
    assert "requested = ceil(150,109,880,320 x 0.92) = 138,101,089,895 B" in out
    assert "profiling batch: 8,192 tokens" in out


def test_csv_has_a_line_for_each_rank(kvplan: Run) -> None:
    done = kvplan("fit", "-m", "llama-70b", "--gpu", "4xh200", "--ctx", "32k", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["rank"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["accelerator"] == "h200-sxm"


def test_markdown_has_the_budget(kvplan: Run) -> None:
    assert "| weights | 14.99 GiB" in kvplan("fit", "-m", "llama-3.1-8b", "--gpu", "h100", "-f", "markdown").out


def test_towers_are_left_out_unless_asked_for(kvplan: Run) -> None:
    text = fit(kvplan, "-m", "gemma-3-27b", "--gpu", "h200", "--ctx", "8k")["budget_per_rank"][0]["weights_bytes"]
    done = kvplan("fit", "-m", "gemma-3-27b", "--gpu", "h200", "--ctx", "8k", "--multimodal", "--json")
    assert answer(done)["budget_per_rank"][0]["weights_bytes"] > text


def log_file(name: str) -> str:
    return str(next(path for path in sorted(LOGS.iterdir()) if name in path.name))


def test_a_log_is_put_beside_its_prediction_and_learnt(kvplan: Run, tmp_path: Path) -> None:
    result = fit(kvplan, "--from-log", log_file("llama8b-alt"))
    assert set(result["measured"]) == MEASURED
    assert result["measured"]["capacity_tokens"] == 882256
    assert abs(result["capacity_tokens"] / 882256 - 1) < 0.01
    assert abs(result["budget_per_rank"][0]["weights_bytes"] / result["measured"]["weights_bytes"] - 1) < 0.005
    assert (tmp_path / "config" / "calibration.json").is_file()
    words = ("-m", "llama-3.1-8b", "--engine", "vllm@0.25", "--gpu", "h200", "--ctx", "16k")
    learnt = fit(kvplan, *words)["budget_per_rank"][0]
    plain = fit(kvplan, *words, "--calibration", "off")["budget_per_rank"][0]
    assert learnt["activation_bytes"] != plain["activation_bytes"]


def test_a_workload_is_replayed(kvplan: Run, tmp_path: Path) -> None:
    trace = tmp_path / "requests.jsonl"
    rows = [{"arrival_time": 0.1 * index, "prompt_tokens": 1000, "output_tokens": 100} for index in range(200)]
    trace.write_text("\n".join(map(json.dumps, rows)))
    words = ("-m", "llama-3.1-8b", "--gpu", "h100", "--ctx", "8k", "--trace", str(trace))
    workload = fit(kvplan, *words)["workload"]
    assert workload["requests"] == workload["completed"] == 200
    assert workload["blocks"]["peak"] >= 69  # 1100 tokens in blocks of 16
    assert workload["ample_blocks"] == workload["blocks"]["peak"]


def test_a_distribution_makes_up_a_workload(kvplan: Run) -> None:
    words = ("--distribution", "prompt=256:0.5,output=64:0.5", "--rate", "50")
    workload = fit(kvplan, "-m", "llama-3.1-8b", "--gpu", "h100", "--ctx", "8k", *words)["workload"]
    assert workload["requests"] == 10_000


@pytest.mark.parametrize("ending", ["svg", "html"])
def test_pictures_are_written(kvplan: Run, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"fit.{ending}"
    assert kvplan("fit", "-m", "llama-3.1-8b", "--gpu", "h100", "--ctx", "8k", "--plot", str(path)).code == 0
    assert "llama-3.1-8b" in path.read_text(encoding="utf-8")


def test_a_curve_is_drawn_in_the_terminal(kvplan: Run) -> None:
    assert "fp8_e4m3" in kvplan("fit", "-m", "llama-3.1-8b", "--gpu", "h100", "--ctx", "8k", "--plot", "-").out


def test_the_search_ranks_hardware_and_explains_the_rest(kvplan: Run) -> None:
    result = fit(kvplan, "-m", "llama-70b", "--search", "--ctx", "32k", "-n", "64", "--explain")
    counts = [entry["accelerator"]["count"] for entry in result["found"]]
    assert counts
    assert counts == sorted(counts)
    assert any(entry["accelerator"] == "h100-sxm" and entry["reason"] for entry in result["rejected"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "llama-70b", "--gpu", "h300"), "unknown accelerator"),
        (("-m", "llama-70b", "--gpu", "h100", "--tp", "3"), "does not divide"),
        (("-m", "llama-70b", "--gpu", "8xh100", "--tp", "3"), "no multiple"),
        (("-m", "llama-70b", "--gpu", "h100", "--gpu-memory-utilization", "1.5"), "outside"),
        (("-m", "llama-70b", "--gpu", "h100", "--usage", "batch"), "--usage"),
        (("-m", "llama-70b", "--gpu", "h100", "--ctx", "32k", "--max-model-len", "1k"), "longer than"),
        (("--gpu", "h100"), "--model is missing"),
        (("-m", "llama-70b", "--search", "--gpu", "h100"), "leave --gpu out"),
        (("--from-log", __file__), "no words of an engine"),
        (("--from-log", "/nowhere.log"), "nowhere.log"),
        (("-m", "llama-3.1-8b", "--gpu", "h100", "--plot", "x.doc"), ".svg"),
        (("-m", "llama-3.1-8b", "--gpu", "h100", "--calibration", "perhaps"), "allowed: on, off"),
        (("-m", "llama-3.1-8b", "--gpu", "h100", "--trace", "/nowhere.csv"), "nowhere.csv"),
        (("-m", "llama-3.1-8b", "--gpu", "h100", "--distribution", "x"), "--distribution"),
    ],
)
def test_bad_input_is_one_clear_line(kvplan: Run, words: tuple[str, ...], said: str) -> None:
    done = kvplan("fit", *words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
