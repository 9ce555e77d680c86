"""The advice files: well-formed, sourced, reachable, and within what kvplan promises to advise."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import pytest

import kvplan.advice
from kvplan.core.advice import Case, Condition, Rule, matching_rules
from kvplan.core.errors import SpecError
from kvplan.engines import engine_names
from kvplan.formats import format_names, parse_kv_format
from kvplan.policies import get_policy
from kvplan.specs.advice import load_advice, parse_condition
from kvplan.specs.advice_schema import TABLES, check_table
from kvplan.specs.yaml_file import load_yaml_file

FOLDER = Path(kvplan.advice.__file__).parent
ADVICE = load_advice()


def values(name: str) -> dict[str, Any]:
    return load_yaml_file(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("name", TABLES)
def test_a_packaged_table_has_no_mistakes(name: str) -> None:
    assert check_table(name, values(name)) == []


def test_every_file_of_the_folder_is_a_table() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_source_says_where_to_look_and_every_row_has_one(name: str) -> None:
    table = values(name)
    assert all(len(text) > 10 for text in table["sources"].values())
    for key in TABLES[name]:
        if name != "matrix":
            assert all(entry["source"] for entry in table[key])


def test_the_classic_matrix_is_told_in_its_own_words() -> None:
    rows = [(row.context, row.concurrency, row.memory_pressure, row.recommendation) for row in ADVICE.matrix]
    assert rows == [
        ("< 8K", "low", "low", "don't compress"),
        ("< 8K", "high", "medium", "maybe INT8"),
        ("8K-32K", "any", "medium", "INT8"),
        ("> 32K", "any", "high", "INT8 + pruning"),
    ]
    assert [rule.side for rule in ADVICE.classic] == ["use"] * 4 + ["skip"] * 4


def test_the_rows_of_the_matrix_cover_every_context_once() -> None:
    bounds = sorted({(row.min_tokens, row.max_tokens) for row in ADVICE.matrix}, key=lambda pair: pair[0])
    assert bounds[0][0] == 0
    assert bounds[-1][1] is None
    assert all(before[1] is not None and before[1] + 1 == after[0] for before, after in pairwise(bounds))


def test_rules_have_names_of_their_own_and_the_special_ones_come_first() -> None:
    names = [rule.id for rule in ADVICE.rules]
    assert len(set(names)) == len(names)
    decisive = [rule.id for rule in ADVICE.rules if not rule.modifier]
    assert names[: len(decisive)] == decisive
    assert decisive == [
        "nothing_to_compress",
        "strict_and_fits",
        "latent_fits",
        "latent_blackwell",
        "latent",
        "fp8_for_speed",
        "native_short",
        "native_fits",
        "compute_bound_and_fits",
        "wide_heads_on_hopper",
        "local",
        "local_tight",
        "hard_task_beyond_8bit",
        "long_retrieval_beyond_8bit",
        "strict_beyond_8bit",
        "beyond_8bit_blackwell",
        "beyond_8bit",
        "fp8_default",
        "int8_default",
        "eight_bits_somewhere",
        "unknown_pressure",
    ]


GRID: dict[str, tuple[Any, ...]] = {
    "device": (
        {},
        {"compute_capability": (8, 0)},
        {"compute_capability": (9, 0)},
        {"compute_capability": (10, 0)},
        {"gfx_target": "gfx942"},
    ),
    "pressure": (
        {},
        *({"pressure_ratio": native, "pressure_8bit_ratio": native / 2} for native in (0.3, 0.8, 1.6, 4.0)),
    ),
    "context": ({"context_tokens": 4096}, {"context_tokens": 131072}),
    "bound": ({"bound": "memory"}, {"bound": "compute"}),
    "attention": (
        {"attention": "gqa", "head_dim": 128, "window_tokens": 128},
        {"attention": "gqa", "head_dim": 256},
        {"attention": "mla"},
        {"attention": "hybrid", "head_dim": 128},
        {"attention": "state"},
    ),
    "task": ({"task": "chat"}, {"task": "reasoning"}, {"task": "retrieval"}),
    "quality": ({"quality": "strict"}, {"quality": "normal"}),
    "engine": ({"engine": "vllm"}, {"engine": "transformers"}, {"engine": "llamacpp"}),
    "workload": (
        {"prefix_reuse": False},
        {"prefix_reuse": True, "speculative": True, "disaggregated": True},
    ),
}
"""Cases over the fields that rules ask for."""


def some_cases() -> Iterator[Case]:
    fixed = {
        "concurrency": 32,
        "kv_step_share_ratio": 0.4,
        "break_even_tokens": 7010.0,
        "prefill_share_ratio": 0.7,
    }
    for choice in islice(product(*GRID.values()), 0, None, 7):  # 7 divides no size: every value meets every other
        yield Case(**{key: value for part in (fixed, *choice) for key, value in part.items()})


def test_every_rule_decides_some_case() -> None:
    missing = {rule.id for rule in ADVICE.rules}
    for case in some_cases():
        decided = False
        for match in matching_rules(ADVICE.rules, case):
            if match.rule.modifier or not decided:
                missing.discard(match.rule.id)
            decided = decided or not match.rule.modifier
        if not missing:
            return
    assert not missing


def test_engines_in_conditions_exist() -> None:
    known = {*engine_names(), "none"}
    for rule in ADVICE.rules:
        for condition in rule.when:
            if condition.field == "engine":
                bound = condition.bound
                assert set(bound if isinstance(bound, tuple) else (bound,)) <= known, rule.id


def test_no_option_stores_three_bits_or_gives_keys_fewer_bits_than_values() -> None:
    for option in ADVICE.options.values():
        for name in option.formats:
            stored = parse_kv_format(name, "bf16")
            assert stored.key.nominal_bits >= stored.value.nominal_bits, name
            assert min(stored.key.nominal_bits, stored.value.nominal_bits) >= 4, name


@pytest.mark.parametrize(("name", "bits"), [("fp8", 8), ("int8", 8), ("8bit", 8), ("4bit", 4), ("native", 16)])
def test_an_option_stores_the_bits_that_it_is_called_by(name: str, bits: int) -> None:
    for stored in ADVICE.options[name].formats:
        assert parse_kv_format(stored, "bf16").key.nominal_bits == bits, stored


def test_four_bits_are_avoided_or_come_last_for_hard_tasks() -> None:
    for rule in ADVICE.rules:
        hard = any(item.field == "task" and set(_bounds(item)) & {"reasoning", "code"} for item in rule.when)
        if hard and not rule.modifier:
            assert rule.advice[-1] == "4bit" or "4bit" not in rule.advice, rule.id
            assert "more_memory" in rule.advice, rule.id


def test_no_rule_advises_what_it_warns_of() -> None:
    for rule in ADVICE.rules:
        assert not set(rule.advice) & set(rule.avoid), rule.id
        assert rule.advice or rule.modifier, rule.id


def test_no_rule_rests_on_recalled_sources_alone() -> None:
    table = values("quality")
    recalled = {table["sources"][row["source"]] for row in table["rows"] if row.get("recalled")}
    read = {table["sources"][row["source"]] for row in table["rows"] if not row.get("recalled")}
    for rule in ADVICE.rules:
        assert set(rule.sources) - (recalled - read), rule.id


def test_figures_are_about_formats_and_policies_that_exist_or_methods_that_are_listed() -> None:
    methods = set(values("quality")["methods"])
    used = {name for row in ADVICE.quality for name in row.names}
    assert methods <= used
    for name in used - methods:
        assert _is_format(name) or get_policy(name), name
    assert {name for row in ADVICE.speed for name in row.names} <= set(format_names())


def test_figures_follow_from_their_scores_and_words_stand_where_there_are_none() -> None:
    for row in ADVICE.quality:
        if row.baseline is not None and row.compressed is not None and row.loss_ratio is not None:
            worse = row.compressed < row.baseline if row.higher else row.compressed > row.baseline
            assert (row.loss_ratio > 0) == worse, row
            assert abs(row.loss_ratio) == pytest.approx(abs(row.compressed - row.baseline) / row.baseline)
        else:
            assert row.loss_ratio is not None or row.note, row


def test_gpt_oss_lost_forty_points_of_aime25_in_fp4_where_gsm8k_stayed_flat() -> None:
    """SGLang's documentation of quantized caches: 75.3 to 35.3, and 91.6 to 91.5."""
    rows = {row.metric: row for row in ADVICE.quality if "fp4_mx_block16" in row.names and row.model == "GPT-OSS-120B"}
    aime, gsm8k = rows["AIME25"].loss_ratio, rows["GSM8K"].loss_ratio
    assert aime == pytest.approx(40.0 / 75.3)
    assert gsm8k == pytest.approx(0.1 / 91.6)


def test_the_normal_gates_are_the_acceptance_thresholds() -> None:
    normal = {
        gate.id: (gate.perplexity_increase_ratio, gate.accuracy_drop_ratio)
        for gate in ADVICE.gates
        if gate.quality == "normal"
    }
    assert normal == {"fp8": (0.005, 0.01), "int8": (0.005, 0.01), "int4": (0.02, 0.03), "prune": (0.03, 0.05)}


def test_strict_gates_are_half_and_relaxed_ones_twice_the_normal() -> None:
    gates = {(gate.id, gate.quality): gate for gate in ADVICE.gates}
    assert len(gates) == len(ADVICE.gates) == 12
    for kind, quality, factor in product(("fp8", "int8", "int4", "prune"), ("strict", "relaxed"), (0.5, 2)):
        if (quality == "strict") == (factor < 1):
            for name in ("perplexity_increase_ratio", "accuracy_drop_ratio", "needle_drop_ratio"):
                expected = factor * getattr(gates[kind, "normal"], name)
                assert getattr(gates[kind, quality], name) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pressure_ratio >= 0.7", Condition(field="pressure_ratio", operator=">=", bound=0.7)),
        ("task in chat | batch", Condition(field="task", operator="in", bound=("chat", "batch"))),
        ("compute_capability >= 8.9", Condition(field="compute_capability", operator=">=", bound=(8, 9))),
        ("fp8_hardware == false", Condition(field="fp8_hardware", operator="==", bound=False)),
        (
            "context_tokens < break_even_tokens",
            Condition(field="context_tokens", operator="<", bound_field="break_even_tokens"),
        ),
    ],
)
def test_a_condition_is_written_as_it_is_said(text: str, expected: Condition) -> None:
    assert parse_condition(text, "test") == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("pressure_ratio", "test: 'pressure_ratio' is no condition"),
        ("pressure_ratio ~ 1", "test: 'pressure_ratio ~ 1' is no condition"),
        ("presure_ratio < 1", "test: 'presure_ratio < 1': there is no field 'presure_ratio'"),
        ("task == poetry", "test: task is never 'poetry'"),
        ("task == chat | code", "test: 'task == chat | code' compares with several values"),
        ("compute_capability >= nine", "test: compute_capability is never 'nine'"),
    ],
)
def test_a_condition_with_a_mistake_is_one_line(text: str, line: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_condition(text, "test")
    assert caught.value.message == line
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("rules", "reason: ", "reasson: ", "reasson: unknown field"),
        ("rules", "advice: [native]", "advice: [nativ]", "there is no option 'nativ'"),
        ("rules", "source: [vllm_int4]", "source: [nobody]", "there is no source 'nobody'"),
        ("quality", "task: reasoning", "task: poetry", "task: must be"),
        ("quality", ", compressed: 73.3", "", "baseline and compressed go together"),
        ("speed", "efficiency_ratio: 0.90", "efficiency_ratio: 1.5", "efficiency_ratio: must be"),
        ("matrix", "differences:", "difference:", "difference: unknown field"),
    ],
)
def test_a_mistake_in_a_table_is_named(tmp_path: Path, name: str, old: str, new: str, line: str) -> None:
    folder = tmp_path / "advice"
    shutil.copytree(FOLDER, folder)
    path = folder / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError, match="advice") as caught:
        load_advice(folder)
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


def test_a_copy_of_the_folder_loads_as_the_packaged_one(tmp_path: Path) -> None:
    folder = tmp_path / "advice"
    shutil.copytree(FOLDER, folder)
    assert load_advice(folder) == ADVICE
    assert load_advice() is ADVICE


def _bounds(condition: Condition) -> tuple[Any, ...]:
    return condition.bound if isinstance(condition.bound, tuple) else (condition.bound,)


def _is_format(name: str) -> bool:
    try:
        parse_kv_format(name, "bf16")
    except Exception:
        return False
    return True


def test_rules_are_values() -> None:
    assert len({hash(rule) for rule in ADVICE.rules}) == len(ADVICE.rules)
    assert all(isinstance(rule, Rule) for rule in ADVICE.rules)
