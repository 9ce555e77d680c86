"""The file of thresholds: what it changes, and every way in which it may be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.core.errors import FileError, SpecError
from kvplan.core.evaluation import Thresholds
from kvplan.specs.advice import load_advice
from kvplan.specs.thresholds import GATE_KINDS, ThresholdRules, read_thresholds


def written(folder: Path, text: str) -> Path:
    path = folder / "thresholds.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shares_and_percents_are_read_alike(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "all: {kld_mean: 0.005}\n"
        "kinds:\n  prune: {perplexity_increase_ratio: 5%, needle_drop_ratio: 0.1}\n"
        'methods:\n  "h2o:keep=0.5": {top1_disagreement_ratio: 2.5 %}\n  int8:\n',
    )
    assert read_thresholds(path) == ThresholdRules(
        everywhere={"kld_mean": 0.005},
        kinds={"prune": {"perplexity_increase_ratio": 0.05, "needle_drop_ratio": 0.1}},
        methods={"h2o:keep=0.5": {"top1_disagreement_ratio": 0.025}, "int8": {}},
    )


def test_null_asks_for_no_limit_and_what_is_not_named_stays(tmp_path: Path) -> None:
    rules = read_thresholds(written(tmp_path, "kinds: {int8: {accuracy_drop_ratio: null}}"))
    default = Thresholds(perplexity_increase_ratio=0.005, accuracy_drop_ratio=0.01)
    assert rules.of_kind("int8", default) == Thresholds(perplexity_increase_ratio=0.005)
    assert rules.of_kind("int4", default) == default


def test_a_kind_goes_before_all(tmp_path: Path) -> None:
    rules = read_thresholds(written(tmp_path, "all: {kld_mean: 0.5}\nkinds: {int4: {kld_mean: 0.1}}"))
    assert rules.of_kind("int4", Thresholds()).kld_mean == 0.1
    assert rules.of_kind("fp8", Thresholds()).kld_mean == 0.5


def test_the_kinds_are_those_of_the_acceptance_gates() -> None:
    assert {gate.id for gate in load_advice().gates} == set(GATE_KINDS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: {int8: {kld_mean: 0.1}}", "kind: unknown section; did you mean kinds?"),
        ("kinds: {int9: {kld_mean: 0.1}}", "kinds.int9: unknown kind; did you mean int8 or int4?"),
        ("kinds: {int8: {kld: 0.1}}", "kinds.int8.kld: unknown field; did you mean kld_mean?"),
        ("kinds: {int8: 0.1}", "kinds.int8: a mapping of limits is expected"),
        ("kinds: [int8]", "kinds: a mapping of names to limits is expected"),
        ("all: 0.1", "all: a mapping of limits is expected"),
        ("all: {accuracy_drop_ratio: 2}", "all.accuracy_drop_ratio: must be less than 1"),
        ("all: {accuracy_drop_ratio: 0}", "all.accuracy_drop_ratio: must be greater than 0"),
        ("all: {accuracy_drop_ratio: -1%}", "all.accuracy_drop_ratio: must be a valid number"),
        ("all: {accuracy_drop_ratio: true}", "all.accuracy_drop_ratio: must be a valid number"),
        ("all: {kld_mean: .nan}", "all.kld_mean: must be a finite number"),
        ("methods: {}", "names no threshold"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_thresholds(written(tmp_path, text))
    assert raised.value.problems[0] == problem


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        read_thresholds(tmp_path / "none.yaml")
