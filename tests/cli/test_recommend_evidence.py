"""``kvplan recommend --evidence``: what was measured goes before what was published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import EVALUATION, FAILED, report

from kvplan.core.evaluation import Evaluation
from kvplan.reports.evaluate_json import evaluate_fields
from kvplan.reports.to_json import render_success

Run = Callable[..., Any]
RECOMMEND = ("recommend", "-m", "llama-3.1-8b", "-g", "h100", "-c", "32k", "-n", "16")


@pytest.fixture
def evidence(tmp_path: Path) -> Callable[[Evaluation], str]:
    """A file of what was found."""

    def write(evaluation: Evaluation) -> str:
        path = tmp_path / "quality.json"
        path.write_text(render_success("evaluate", evaluate_fields(evaluation)), encoding="utf-8")
        return str(path)

    return write


def test_evidence_goes_before_published_figures(kvplan: Run, evidence: Run) -> None:
    path = evidence(EVALUATION)
    choices = json.loads(kvplan(*RECOMMEND, "--json", "--evidence", path).out)["result"]["alternatives"]
    int8 = next(choice for choice in choices if choice["stored_format"] == "int8_per_token_head")
    assert int8["quality_loss_ratio"] == 0.0001
    assert "measured" in int8["quality"]


def test_what_failed_is_not_advised_and_the_reason_names_the_file(kvplan: Run, evidence: Run) -> None:
    path = evidence(FAILED)
    before = json.loads(kvplan(*RECOMMEND, "--json").out)["result"]
    answer = kvplan(*RECOMMEND, "--json", "--evidence", path)
    after = json.loads(answer.out)["result"]
    assert before["recommendation"]["stored_format"] == "fp8_e4m3"
    assert after["recommendation"]["stored_format"] == "int8_per_token_head"
    assert (after["quality"]["measured"], after["quality"]["source"]) == (True, f"measured: {path}")
    assert after["quality"]["evaluate"] is None
    reason = next(entry["reason"] for entry in after["rejected"] if entry["option"] == "fp8")
    assert "measured on this model, it fails: perplexity increase 0.9%" in reason
    assert path in reason
    assert "fp8_e4m3" not in {choice["stored_format"] for choice in after["alternatives"]}
    assert "h2o:keep=0.5" in answer.err  # a policy is no engine's choice


def test_a_measured_figure_above_the_stricter_gate_of_the_request_is_not_advised(kvplan: Run, evidence: Run) -> None:
    path = evidence(replace(EVALUATION, methods=(report("fp8_e4m3", 0.004, "pass"),)))
    normal, strict = (
        json.loads(kvplan(*RECOMMEND, "--json", "--evidence", path, *more).out)["result"]
        for more in ((), ("--quality", "strict"))
    )
    assert normal["recommendation"]["stored_format"] == "fp8_e4m3"
    assert normal["quality"]["expected_loss_ratio"] == 0.004
    assert strict["recommendation"]["stored_format"] != "fp8_e4m3"
    assert any("strict gate" in entry["reason"] for entry in strict["rejected"])


def test_evidence_of_another_model_is_refused(kvplan: Run, evidence: Run) -> None:
    path = evidence(replace(EVALUATION, model="Qwen/Qwen3-8B"))
    answer = kvplan(*RECOMMEND, "--evidence", path)
    assert answer.code == 2
    assert "was measured on Qwen/Qwen3-8B, not on llama-3.1-8b" in answer.err
    assert "--evidence-model Qwen/Qwen3-8B accepts it" in answer.err


def test_evidence_of_another_model_is_accepted_by_its_name_and_labelled_as_such(kvplan: Run, evidence: Run) -> None:
    path = evidence(replace(FAILED, model="kvplan-demo"))
    answer = kvplan(*RECOMMEND, "--json", "--evidence", path, "--evidence-model", "kvplan-demo")
    result = json.loads(answer.out)["result"]
    assert result["recommendation"]["stored_format"] == "int8_per_token_head"
    assert "on kvplan-demo, another model: measured" in result["quality"]["expected"]
    assert result["quality"]["evaluate"].startswith("kvplan evaluate --model")  # measuring this one is still to do
    reason = next(entry["reason"] for entry in result["rejected"] if entry["option"] == "fp8")
    assert reason.startswith("measured on kvplan-demo, another model, it fails")
    assert "measured on kvplan-demo, another model than llama-3.1-8b" in answer.err
    table = " ".join(kvplan(*RECOMMEND, "--evidence", path, "--evidence-model", "kvplan-demo").out.split())
    assert "on kvplan-demo, another model: measured" in table
    assert "measured on kvplan-demo" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--evidence-model", "kvplan-demo"), "--evidence-model says whose evidence is accepted"),
        (("--evidence", "FILE", "--evidence-model", "qwen3-8b"), "was measured on kvplan-demo, not on qwen3-8b"),
    ],
)
def test_no_other_evidence_is_accepted_than_that_which_is_named(
    words: tuple[str, ...], message: str, kvplan: Run, evidence: Run
) -> None:
    path = evidence(replace(EVALUATION, model="kvplan-demo"))
    answer = kvplan(*RECOMMEND, *(path if word == "FILE" else word for word in words))
    assert answer.code == 2
    assert message in answer.err


def test_the_records_are_no_evidence_and_it_says_what_is(kvplan: Run, tmp_path: Path) -> None:
    path = tmp_path / "quality.jsonl"
    path.write_text('{"kvplan evaluate": 1}\n{"task": "needle"}\n', encoding="utf-8")
    answer = kvplan(*RECOMMEND, "--evidence", str(path))
    assert answer.code == 2
    assert "quality.jsonl" in answer.err
