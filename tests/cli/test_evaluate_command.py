"""``kvplan evaluate`` as a user meets it: refusals, output, exit codes, a real run."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import EVALUATION, FAILED

pytest.importorskip("torch")
pytest.importorskip("transformers")

from kvplan.cli import evaluate_run
from kvplan.core.errors import UsageError
from kvplan.core.evaluation import Evaluation
from kvplan.reports import to_table

Run = Callable[..., Any]
METHODS = "int8,int4,fp8,h2o:0.5"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[[Evaluation], list[dict[str, Any]]]:
    """Let the run find this; the words that it was asked with are returned."""
    asked: list[dict[str, Any]] = []

    def put(evaluation: Evaluation) -> list[dict[str, Any]]:
        def run(words: Mapping[str, Any]) -> Evaluation:
            asked.append(dict(words))
            return evaluation

        monkeypatch.setattr(evaluate_run, "run_evaluation", run)
        return asked

    return put


def test_a_failed_gate_exits_with_4_and_is_said_first(kvplan: Run, found: Run) -> None:
    found(FAILED)
    answer = kvplan("evaluate", "--demo", "--methods", METHODS)
    assert answer.code == 4
    assert answer.out.startswith("1 of 4 passes (int8), 2 fail, 1 is inconclusive\nfp8 fails: perplexity increase 0.9%")


def test_what_is_inconclusive_exits_with_0_and_a_warning(kvplan: Run, found: Run) -> None:
    found(EVALUATION)
    answer = kvplan("evaluate", "--demo", "--methods", METHODS)
    assert answer.code == 0
    assert "warning: inconclusive, so not shown to pass: int4: about --samples perplexity=640 would" in answer.err
    assert "note: times are those of Python" in answer.err


def test_all_that_passes_is_quiet(kvplan: Run, found: Run) -> None:
    found(replace(EVALUATION, methods=EVALUATION.methods[:1], notes=()))
    answer = kvplan("evaluate", "--demo")
    assert (answer.code, answer.err) == (0, "")


def test_json_csv_and_markdown(kvplan: Run, found: Run) -> None:
    found(FAILED)
    answer = kvplan("evaluate", "--demo", "--json")
    envelope = json.loads(answer.out)
    assert answer.code == 4
    assert (envelope["command"], envelope["status"]) == ("evaluate", "ok")
    assert envelope["warnings"][0].startswith("inconclusive")
    assert [method["verdict"] for method in envelope["result"]["methods"]] == ["pass", "inconclusive", "fail", "fail"]
    rows = list(csv.DictReader(io.StringIO(kvplan("evaluate", "--demo", "-f", "csv").out)))
    assert [row["method"] for row in rows][:2] == ["none", "int8_per_token_head"]
    assert "| fp8 |" in kvplan("evaluate", "--demo", "-f", "markdown").out


def test_pictures_go_to_a_file_or_to_the_terminal(kvplan: Run, found: Run, tmp_path: Path) -> None:
    found(EVALUATION)
    target = tmp_path / "quality.svg"
    assert f"wrote {target}" in kvplan("evaluate", "--demo", "--plot", str(target)).err
    assert "mean KL divergence" in target.read_text(encoding="utf-8")
    assert "Pareto front" in kvplan("evaluate", "--demo", "--plot", "-").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--model is missing"),
        (("--demo", "--model", "x"), "--demo has a model of its own"),
        (("--demo", "--samples", "1"), "--samples must be at least 2"),
        (("--demo", "--samples", "some"), "--samples 'some' is no number"),
        (("--demo", "--samples", "needle=1"), "--samples must be at least 2"),
        (("--demo", "--samples", "needel=60"), "unknown --samples 'needel'"),
        (("--demo", "--seed", "-1"), "--seed must be at least 0"),
        (("--demo", "--plot", "quality.pdf"), "cannot draw a picture into 'quality.pdf'"),
        (("--demo", "--tasks", "speed"), "unknown --tasks 'speed'"),
        (("--demo", "--tasks", ","), "--tasks names nothing to measure"),
        (("--demo", "--methods", "none"), "--methods names nothing to compare"),
        (("--demo", "--methods", "it8"), "unknown compression method 'it8'"),
        (("--demo", "--question-aware", "maybe"), "unknown --question-aware 'maybe'"),
        (("--demo", "--thresholds", "nowhere.yaml"), "nowhere.yaml"),
        (("--demo", "--ctx", "1M", "--methods", "int8"), "--ctx 1,048,576 is beyond what the model reads"),
        (("--demo", "--ctx", "16", "--methods", "int8"), "--ctx 16 holds no needles with a question"),
        (("--model", "./nowhere", "--methods", "int8"), "./nowhere: there is no such folder"),
        (("--demo", "--results", "."), ".: cannot be read (Is a directory)"),
        (("--demo", "--text", "nowhere.txt"), "nowhere.txt: No such file"),
        (("--demo", "--tasks", "qa", "--questions", "nowhere.jsonl"), "nowhere.jsonl: No such file"),
    ],
)
def test_bad_words_are_one_line_before_anything_runs(words: tuple[str, ...], message: str, kvplan: Run) -> None:
    answer = kvplan("evaluate", *words)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert message in answer.err.splitlines()[0]
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--thresholds", "al: {kld_mean: 0.1}", "al: unknown section; did you mean all?"),
        ("--thresholds", "methods: {int99: {kld_mean: 0.1}}", "methods.int99: unknown"),
        ("--text", "", "FILE has 0 tokens, fewer than one sample of 1024"),
        ("--questions", '{"question": "Q?", "answer": "a"}\n{"question": broken\n', "FILE: line 2: it is no JSON"),
        ("--questions", "\n", "FILE asks nothing"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_before_anything_runs(
    option: str, text: str, message: str, kvplan: Run, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    answer = kvplan("evaluate", "--demo", "--methods", "int8", option, str(path))
    assert answer.code == 2
    assert message.replace("FILE", str(path)) in answer.err.splitlines()[0]
    assert "Traceback" not in answer.err


def test_a_short_file_says_that_more_samples_are_not_in_it(kvplan: Run, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Q: sky?\\nA:", "answer": "blue"}\n' * 2, encoding="utf-8")
    words = ("evaluate", "--demo", "--methods", "int8", "--tasks", "qa", "--questions", str(questions))
    assert f"note: {questions} holds 2 questions, fewer than the 9 of qa" in kvplan(*words, "--samples", "qa=9").err
    assert "holds" not in kvplan(*words).err  # all of them are asked


def test_a_name_that_kvplan_knows_stands_for_its_hub_id() -> None:
    assert evaluate_run._reference({"demo": False, "model": "llama-3.1-8b"}) == "meta-llama/Llama-3.1-8B"
    for other in ("some/model", "no-such-model"):
        assert evaluate_run._reference({"demo": False, "model": other}) == other


@pytest.mark.parametrize("missing", [("torch",), ("transformers",), ("torch", "transformers")])
def test_without_torch_or_transformers_one_line_says_what_to_install(
    missing: tuple[str, ...], kvplan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> object:
        return None if name in missing else there(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    answer = kvplan("evaluate", "--demo")
    assert answer.code == 2
    assert f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed" in answer.err
    assert "pip install" in answer.err
    assert "[transformers]" in answer.err


def test_a_press_without_kvpress_says_what_to_install(kvplan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "kvplan.runtime.evaluate.press.find_spec", lambda name: None if name == "kvpress" else there(name)
    )
    answer = kvplan("evaluate", "--demo", "--press", "SnapKVPress")
    assert answer.code == 2
    assert "kvpress, which is not installed: pip install --no-deps kvpress" in answer.err


def test_tasks_are_taken_once_in_the_order_of_reading() -> None:
    assert evaluate_run.split_tasks("needle, perplexity,needle") == ("perplexity", "needle")
    with pytest.raises(UsageError, match="unknown --tasks 'needel'") as caught:
        evaluate_run.split_tasks("needel")
    assert "needle" in (caught.value.hint or "")


WORDS = {
    **dict.fromkeys(("model", "text", "questions", "ctx", "samples", "press", "results", "methods", "thresholds")),
    "demo": False,
    "question_aware": "on",
    "seed": 0,
    "tasks": "",
}


@pytest.mark.parametrize(
    ("words", "longest", "needles"), [({}, 4096, 60), ({"demo": True}, 2048, 15), ({"samples": "90"}, 4096, 90)]
)
def test_the_plan_fills_the_context(words: dict[str, Any], longest: int, needles: int) -> None:
    plan = evaluate_run.build_plan({**WORDS, **words}, ("perplexity", "needle"), 8192)
    grid = plan.settings["needle"]
    assert plan.context_tokens == grid.lengths_tokens[-1] == longest
    assert len(grid.lengths_tokens) * len(grid.depths) * len(grid.num_keys) * grid.per_cell == needles
    assert plan.settings["latency"] is plan.settings["memory"]
    assert len(plan.asked) == 2


@pytest.mark.parametrize("task", ["perplexity", "needle", "qa"])
@pytest.mark.parametrize("needed", [31, 61, 228])
def test_the_samples_that_would_decide_are_asked_for_in_the_unit_of_the_option(task: str, needed: int) -> None:
    """Texts, questions, and needles over the whole grid, of which each cell gets as many."""
    words = {**WORDS, "demo": True, "samples": f"{task}={needed}"}
    settings = evaluate_run.build_plan(words, evaluate_run.TASKS, 2048).settings
    grid, cells = settings["needle"], 15
    taken = {"perplexity": settings["perplexity"].num_samples, "qa": settings["qa"].num_samples}
    taken["needle"] = grid.per_cell * cells
    assert needed <= taken[task] < needed + cells
    others = {"perplexity": 8, "needle": 15, "qa": None}
    assert {name: count for name, count in taken.items() if name != task} == {
        name: count for name, count in others.items() if name != task
    }


def test_samples_of_one_task_go_before_those_of_all() -> None:
    assert evaluate_run.split_samples("64,needle=150") == {"perplexity": 64, "needle": 150, "qa": 64}
    assert evaluate_run.split_samples(None) == {}


def test_a_real_run_on_the_demo_model_and_then_from_its_file(kvplan: Run, tmp_path: Path) -> None:
    results = tmp_path / "quality.jsonl"
    words = ("evaluate", "--demo", "--ctx", "512", "--samples", "2", "--methods", "int8,window:64,sinks=4", "--json")
    asked = (*words, "--tasks", "perplexity,memory", "--results", str(results))
    answer = kvplan(*asked)
    result = json.loads(answer.out)["result"]
    assert [method["method"] for method in result["methods"]] == ["int8_per_token_head", "window:window=64,sinks=4"]
    int8, window = result["methods"]
    # 2 KV heads of 64, in bf16 128 bytes a row and in int8 64 + 4: the calculator's ratio, to the digit
    assert int8["memory_ratio"] == pytest.approx(68 / 128)
    assert int8["kld_mean"] < 1e-4 < 1e-2 < window["kld_mean"]
    assert (int8["needle_recall_ratio"], result["model"]) == (None, "kvplan-demo")
    lines = results.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 3 * (2 + 2)  # the header; baseline and two methods: two texts, latency and memory
    again = kvplan(*asked)
    assert json.loads(again.out)["result"]["methods"] == result["methods"]
    assert results.read_text(encoding="utf-8").splitlines() == lines


def test_the_table_fits_in_80_columns(kvplan: Run, found: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr(to_table, "stdout_console", lambda: Console(width=80, highlight=False))
    found(FAILED)
    assert max(map(len, kvplan("evaluate", "--demo").out.splitlines())) <= 80
