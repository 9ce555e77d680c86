"""``kvplan recommend`` as a user meets it: matrix, JSON contract, launch lines, questions and bad input."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from rich.console import Console

from kvplan.cli import recommend_questions
from kvplan.reports import to_table

Run = Callable[..., Any]
ASKED = ("recommend", "--model", "llama-8b", "--gpu", "h100", "--ctx", "32k", "--concurrency", "16")

RESULT = {
    "recommendation", "matrix_row", "matrix_exact", "matrix_differs", "classic_rules", "pressure_ratio",
    "kv_share_ratio", "bound", "kv_step_share_ratio", "prefill_share_ratio", "prefill_seconds", "break_even_tokens",
    "savings_ratio", "quality", "before", "after", "measures", "actions", "alternatives", "rejected", "launch",
}  # fmt: skip


def test_alone_it_prints_the_classic_matrix_and_how_to_ask(kvplan: Run) -> None:
    answer = kvplan("recommend")
    assert answer.code == 0
    for words in ("don't compress", "maybe INT8", "INT8 + pruning", "memory-bound", "kvplan recommend --model"):
        assert words in answer.out


def test_alone_its_json_is_the_matrix(kvplan: Run) -> None:
    matrix = json.loads(kvplan("recommend", "--json").out)["result"]["matrix"]
    assert [row["recommendation"] for row in matrix] == ["don't compress", "maybe INT8", "INT8", "INT8 + pruning"]


def test_the_json_contract(kvplan: Run) -> None:
    result = json.loads(kvplan(*ASKED, "--json").out)["result"]
    assert set(result) >= RESULT
    assert set(result["recommendation"]) >= {"kv_cache_dtype", "policy", "rule", "reason"}
    assert set(result["matrix_row"]) == {"context", "concurrency", "memory_pressure", "recommendation"}
    assert set(result["quality"]) >= {"expected", "source", "gate"}
    assert set(result["rejected"][0]) == {"option", "reason"}
    assert result["recommendation"]["kv_cache_dtype"] == "fp8"
    assert result["bound"] == "memory"
    assert result["launch"]["argv"][:3] == ["vllm", "serve", "meta-llama/Llama-3.1-8B"]
    assert result["savings_ratio"] == pytest.approx(0.5, abs=1e-4)


def test_one_answer_fits_a_terminal_of_80_columns(kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_table, "stdout_console", lambda: Console(width=80, highlight=False, color_system=None))
    text = kvplan(*ASKED).out
    lines = [line for line in text.splitlines() if not line.startswith(("vllm", "  --"))]
    assert max(map(len, lines)) <= 80
    assert "Use an FP8 cache (fp8)" in text.replace("\n", " ")


def test_the_emitted_line_can_be_run_as_it_stands(kvplan: Run) -> None:
    text = kvplan(*ASKED, "--emit", "vllm").out
    words = shlex.split(text.split("\n\n")[0].replace("\\\n", " "))
    assert words == ["vllm", "serve", "meta-llama/Llama-3.1-8B", "--kv-cache-dtype", "fp8", "--max-model-len", "32768"]
    compile(text.split("\n\n", 1)[1], "launch", "exec")


@pytest.mark.parametrize(
    "target", ["vllm", "sglang", "trtllm", "llamacpp", "ollama", "transformers", "lmdeploy", "k8s"]
)
def test_every_target_is_emitted_for_its_own_engine(kvplan: Run, target: str) -> None:
    answer = kvplan("recommend", "-m", "llama-8b", "-g", "h100", "-c", "16k", "-n", "4", "--emit", target)
    assert answer.code == 0, answer.err
    assert answer.out.strip()


def test_kubernetes_yaml_stands_behind_the_command(kvplan: Run) -> None:
    text = kvplan(*ASKED, "--emit", "k8s").out
    documents = list(yaml.safe_load_all(text.split("# deployment.yaml\n", 1)[1]))
    assert {document["kind"] for document in documents} == {"Deployment", "Service"}


def test_csv_and_markdown_carry_the_same_answer(kvplan: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(kvplan(*ASKED, "--format", "csv").out)))
    assert rows[0]["role"] == "recommended"
    assert rows[0]["kv_cache_dtype"] == "fp8"
    assert "| > | 8K-32K" in kvplan(*ASKED, "--format", "markdown").out


def test_explain_shows_each_classic_rule_with_its_numbers(kvplan: Run) -> None:
    text = kvplan(*ASKED, "--explain").out
    assert "bound is memory" in text
    assert "quality is critical" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "chats"), "chat"),
        (("--quality", "high"), "strict"),
        (("--emit", "vlm"), "vllm"),
        (("--emit", "sglang", "--engine", "vllm"), "sglang"),
        (("--gpu", "h1000"), "h100"),
        (("--output-tokens", "many"), "--output-tokens"),
    ],
)
def test_bad_input_is_one_line_with_what_is_near(kvplan: Run, words: tuple[str, ...], said: str) -> None:
    answer = kvplan(*ASKED, *words)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_on_a_terminal_it_asks_for_what_is_missing(kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = iter(["llama-8x", "llama-8b", "h100", "", "4"])
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        return next(replies)

    monkeypatch.setattr(recommend_questions, "can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", reply)
    answer = kvplan("recommend")
    assert answer.code == 0, answer.err
    assert len(asked) == 5  # the mistyped model is asked for again
    assert "unknown" in answer.out
    assert "32k tokens x 4" in answer.out


def test_without_a_terminal_a_missing_model_is_said(kvplan: Run) -> None:
    assert "kvplan recommend --model" in kvplan("recommend", "--gpu", "h100").out
