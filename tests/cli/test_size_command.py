"""``kvplan size`` as a user meets it: the JSON contract, the formats, and what happens with bad input."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

ENVELOPE = {"kvplan", "schema", "command", "status", "result", "warnings", "error"}
RESULT = {
    "model", "request", "textbook_bytes", "geometry_bytes", "uncompressed_bytes", "allocated_bytes",
    "allocated_bytes_per_rank", "allocated_bytes_per_sequence", "bytes_per_token", "fixed_bytes_per_sequence",
    "window_tokens", "bytes_per_block", "blocks_per_sequence", "num_blocks", "capacity_tokens", "max_concurrency",
    "weights_bytes", "weight_format", "weights_certainty", "kv_share_ratio", "nominal_saving_ratio", "saving_ratio",
    "stage_layers", "certainty", "layers", "engine_log_line", "unassigned_bytes",
}  # fmt: skip
REQUEST = {
    "context_tokens", "concurrency", "encoder_tokens", "kv_cache_dtype", "policy", "engine", "engine_version", "tp",
    "pp", "dp", "dcp", "mtp", "max_num_batched_tokens", "block_tokens", "max_model_len", "kv_memory_bytes",
    "accelerator",
}  # fmt: skip
LAYER = {
    "kind", "count", "num_kv_heads", "head_dim", "v_head_dim", "window_tokens", "cache_format", "resident_tokens",
    "kept_tokens", "allocated_tokens", "bytes_per_token", "state_bytes", "geometry_bytes", "allocated_bytes",
}  # fmt: skip


def answer(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out)["result"]
    return result


def test_the_readmes_first_command(kvplan: Run) -> None:
    done = kvplan("size", "--model", "llama-70b", "--ctx", "128k")
    assert done.code == 0
    for figure in ("40.00 GiB", "42,949,672,960", "320.00 KiB", "320.00 GiB", "8.0x too much", "131.42 GiB"):
        assert figure in done.out


def test_the_json_keys_are_a_contract(kvplan: Run) -> None:
    envelope = json.loads(kvplan("size", "--model", "llama-70b", "--ctx", "128k", "--json").out)
    assert set(envelope) == ENVELOPE
    assert (envelope["status"], envelope["schema"], envelope["command"], envelope["error"]) == ("ok", 1, "size", None)
    result = envelope["result"]
    assert set(result) == RESULT
    assert set(result["model"]) == {"name", "source", "num_layers", "num_parameters"}
    assert set(result["request"]) == REQUEST
    assert set(result["layers"][0]) == LAYER


def test_the_json_figures_of_llama_70b(kvplan: Run) -> None:
    result = answer(kvplan("size", "--model", "llama-70b", "--ctx", "128k", "--json"))
    assert result["textbook_bytes"] == 343597383680
    assert result["geometry_bytes"] == 42949672960
    assert result["bytes_per_token"] == 327680
    assert result["model"]["num_parameters"] == 70553706496
    assert result["weights_bytes"] == 141107412992
    assert result["certainty"] == "exact"


def test_layers_add_up(kvplan: Run) -> None:
    result = answer(kvplan("size", "-m", "gpt-oss-20b", "-c", "64k", "-n", "5", "--tp", "4", "--json"))
    assert sum(layer["allocated_bytes"] for layer in result["layers"]) == result["allocated_bytes"]
    assert sum(layer["geometry_bytes"] for layer in result["layers"]) == result["geometry_bytes"]
    assert sum(result["allocated_bytes_per_rank"]) == result["allocated_bytes"]
    assert result["allocated_bytes_per_sequence"] * 5 == result["allocated_bytes"]


def test_several_contexts_and_models_stand_side_by_side(kvplan: Run) -> None:
    done = kvplan("size", "-m", "llama-70b", "-m", "deepseek-v3", "-c", "8k,32k", "--json")
    results = answer(done)["results"]
    assert [(entry["model"]["name"], entry["request"]["context_tokens"]) for entry in results] == [
        ("llama-3.1-70b", 8192),
        ("llama-3.1-70b", 32768),
        ("deepseek-v3", 8192),
        ("deepseek-v3", 32768),
    ]
    table = kvplan("size", "-m", "llama-70b", "-m", "deepseek-v3", "-c", "32k").out
    assert "10.00 GiB" in table
    assert "2.14 GiB" in table


def test_without_a_context_several_are_shown_and_none_is_assumed(kvplan: Run) -> None:
    results = answer(kvplan("size", "-m", "llama-70b", "--json"))["results"]
    assert [entry["request"]["context_tokens"] for entry in results] == [8192, 32768, 131072]


def test_a_comma_may_group_thousands(kvplan: Run) -> None:
    assert answer(kvplan("size", "-m", "llama-70b", "-c", "131,072", "--json"))["geometry_bytes"] == 42949672960


def test_csv_has_the_jsons_names_and_exact_bytes(kvplan: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(kvplan("size", "-m", "llama-70b", "-c", "8k,128k", "-f", "csv").out)))
    assert [row["geometry_bytes"] for row in rows] == ["2684354560", "42949672960"]
    assert rows[0]["kv_cache_dtype"] == "bf16"


def test_markdown_is_a_table(kvplan: Run) -> None:
    out = kvplan("size", "-m", "llama-70b", "-c", "128k", "-f", "markdown").out
    assert "| KV cache | 40.00 GiB | 42,949,672,960 bytes |" in out


def test_explain_writes_the_equations(kvplan: Run) -> None:
    out = kvplan("size", "-m", "llama-70b", "-c", "128k", "--explain").out
    assert "2 x 80 layers x 131,072 tokens x 8,192 hidden x 2 bytes = 343,597,383,680" in out
    assert "131,072 rows x 8 heads x 256 bytes (128 in bf16) = 268,435,456" in out
    assert "x 80 layers = 42,949,672,960 bytes a sequence" in out


@pytest.mark.parametrize("columns", ["80", "120"])
def test_tables_fit_the_terminal(columns: str, kvplan: Run) -> None:
    models = ("llama-70b", "deepseek-v3.2", "qwen3.5-27b", "gemma-4-31b", "nemotron-super-49b", "whisper-large-v3")
    for model in models:
        out = kvplan("size", "-m", model, "-c", "128k", "-n", "64", "--policy", "h2o:keep=0.2").out
        assert max(map(len, out.splitlines())) <= 80, out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-m", "lama-70b", "-c", "1k"], "unknown model 'lama-70b'", "llama-70b"),
        (["-m", "llama-70b", "-c", "1k", "-d", "int7"], "unknown cache format 'int7'", "did you mean"),
        (["-m", "llama-70b", "-c", "-5"], "'-5' is not a token count", "8192, 32k or 1M"),
        (["-m", "llama-70b", "-c", "0"], "not a whole positive number", ""),
        (["-m", "llama-70b", "-c", "9" * 20], "absurdly large", ""),
        (["-m", "llama-70b", "-c", "many"], "'many' is not a token count", ""),
        (["-m", "llama-70b", "-c", "1k", "-n", "0"], "--concurrency must be a positive number", ""),
        (["-m", "llama-70b", "-c", "1k", "--tp", "0"], "--tp must lie between", ""),
        (["-m", "llama-70b", "-c", "1k", "--tp", "7"], "does not divide the 64 attention heads", "8, 16, 32, 64"),
        (["-m", "llama-70b", "-c", "1k", "--pp", "81"], "more than the 80 layers", ""),
        (["-m", "llama-70b", "-c", "1k", "--policy", "h3o"], "unknown policy 'h3o'", "h2o"),
        (["-m", "llama-70b", "-c", "1k", "--weights", "int3-awq"], "unknown weight format", ""),
        (["-m", "llama-70b", "-c", "1k", "--engine", "vlm"], "unknown engine 'vlm'", ""),
        (["-m", "llama-70b", "-c", "1k", "--mtp"], "has no draft (MTP) layers", ""),
        (["-m", "./nowhere/config.json", "-c", "1k"], "there is no such file", ""),
        (["-m", "", "-c", "1k"], "unknown model ''", ""),
        (["-m", "llama-70b", "-c", ","], "name nothing to size", ""),
        (["-c", "1k"], "Missing option '--model'", ""),
        (["-m", "llama-70b", "--ctxt", "1k"], "No such option: --ctxt", ""),
        (["-m", "llama-70b", "-c", "1k", "--tp", "two"], "Invalid value for '--tp'", ""),
    ],
)
def test_bad_input_is_answered_in_one_line(kvplan: Run, arguments: list[str], message: str, hint: str) -> None:
    done = kvplan("size", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert hint in done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    failed = kvplan("size", *arguments, "--json")
    envelope = json.loads(failed.out)
    assert failed.code == 2
    assert set(envelope) == ENVELOPE
    assert (envelope["status"], envelope["result"]) == ("error", None)
    assert set(envelope["error"]) == {"code", "message", "hint"}


def test_a_context_beyond_the_maximum_is_a_warning(kvplan: Run) -> None:
    done = kvplan("size", "-m", "llama-70b", "-c", "1M")
    assert done.code == 0
    assert "1048576 tokens are beyond the model's maximum of 131072" in done.err


def test_a_file_that_is_no_config_is_refused(kvplan: Run, tmp_path: Path) -> None:
    for name, text in (
        ("a.json", "[]"),
        ("b.json", "{"),
        ("c.json", '{"name": 1}'),
        ("d.gguf", "GGUF"),
        ("e.yaml", "a: ["),
        ("f.txt", "x"),
    ):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        done = kvplan("size", "-m", str(path), "-c", "1k")
        assert done.code == 2, name
        assert done.err.count("\n") <= 2
    (tmp_path / "folder").mkdir()
    assert "holds no config.json" in kvplan("size", "-m", str(tmp_path / "folder"), "-c", "1k").err


def test_an_unknown_structural_key_is_named(kvplan: Run, tmp_path: Path) -> None:
    config = {
        "architectures": ["FutureForCausalLM"], "model_type": "future", "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100,
        "max_position_embeddings": 128, "kv_fold_factor": 2,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    done = kvplan("size", "-m", str(path), "-c", "1k")
    assert done.code == 2
    assert "'kv_fold_factor' is unknown and could change the cache" in done.err
    del config["kv_fold_factor"]
    path.write_text(json.dumps(config), encoding="utf-8")
    assert answer(kvplan("size", "-m", str(path), "-c", "100", "--json"))["geometry_bytes"] == 2 * 2 * 2 * 16 * 2 * 100


def test_the_module_runs_like_the_script() -> None:
    command = [sys.executable, "-m", "kvplan", "size", "-m", "llama-70b", "-c", "8k", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["result"]["geometry_bytes"] == 2684354560
    version = subprocess.run([sys.executable, "-m", "kvplan", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("kvplan 0.")


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m kvplan models list | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in done.stderr
