"""Cases, conditions, rules, the classic matrix, published quality and gates: what decides, and that it is shown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.core.advice import (
    ATTENTIONS,
    QUALITIES,
    TASKS,
    Case,
    Condition,
    Rule,
    classic_rules,
    matching_rules,
    matrix_row,
    pressure_class,
)
from kvplan.core.quality import LONG_CONTEXT, QualityRow, SpeedRow, gate_for, quality_for, speed_for
from kvplan.specs.advice import load_advice, parse_condition

ADVICE = load_advice()
H100 = Case(context_tokens=65536, concurrency=32, compute_capability=(9, 0), vendor="nvidia", engine="vllm")

cases = st.builds(
    Case,
    context_tokens=st.integers(1, 2**20),
    concurrency=st.integers(1, 1000),
    pressure_ratio=st.none() | st.floats(0, 10),
    pressure_8bit_ratio=st.none() | st.floats(0, 5),
    kv_share_ratio=st.none() | st.floats(0, 1),
    bound=st.sampled_from([None, "memory", "compute"]),
    break_even_tokens=st.none() | st.floats(0, 1e6) | st.just(math.inf),
    compute_capability=st.sampled_from([None, (7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)]),
    attention=st.sampled_from([None, *ATTENTIONS]),
    task=st.sampled_from(TASKS),
    quality=st.sampled_from(QUALITIES),
    engine=st.sampled_from(["none", "vllm", "sglang", "trtllm", "llamacpp", "transformers"]),
)


def decisive(case: Case) -> Rule:
    return next(match.rule for match in matching_rules(ADVICE.rules, case) if not match.rule.modifier)


def modifiers(case: Case) -> set[str]:
    return {match.rule.id for match in matching_rules(ADVICE.rules, case) if match.rule.modifier}


@pytest.mark.parametrize(
    ("text", "met", "shown"),
    [
        ("pressure_ratio >= 0.7", True, "pressure 1.8 >= 0.7"),
        ("pressure_ratio < 0.7", False, "pressure 1.8, not < 0.7"),
        ("context_tokens > 100000", False, "context 64k, not > 100,000"),
        ("context_tokens >= break_even_tokens", True, "context 64k >= break-even context 7,010"),
        ("compute_capability >= 10.0", False, "compute capability 9.0, not >= 10.0"),
        ("compute_capability in 9.0", True, "compute capability is 9.0"),
        ("fp8_hardware == true", True, "FP8 tensor cores: yes"),
        ("task == chat", True, "task is chat"),
        ("task in reasoning | code", False, "task is chat, not reasoning or code"),
        ("quality != strict", True, "quality is normal, not strict"),
        ("kv_share_ratio > 0.3", True, "cache share of memory 45% > 30%"),
        ("head_dim <= 128", None, "head_dim is not known"),
        ("context_tokens >= window_tokens", None, "window is not known"),
    ],
)
def test_a_condition_shows_the_value_it_is_judged_by(text: str, met: bool | None, shown: str) -> None:
    case = replace(H100, pressure_ratio=1.8, break_even_tokens=7010.0, kv_share_ratio=0.45)
    check = parse_condition(text, "test").check(case)
    assert (check.met, check.shown) == (met, shown)


def test_a_rule_matches_when_all_of_its_conditions_do_and_the_first_comes_first() -> None:
    def rule(name: str, *when: Condition) -> Rule:
        return Rule(id=name, when=when, advice=(), reason="", sources=())

    short = Condition(field="context_tokens", operator="<", bound=8192)
    busy = Condition(field="concurrency", operator=">", bound=8)
    rules = (rule("both", short, busy), rule("busy", busy), rule("always"))
    assert [match.rule.id for match in matching_rules(rules, H100)] == ["busy", "always"]
    assert [match.rule.id for match in matching_rules(rules, replace(H100, context_tokens=100))] == [
        "both",
        "busy",
        "always",
    ]


@given(cases)
def test_every_case_has_a_rule_that_decides(case: Case) -> None:
    rule = decisive(case)
    assert rule.advice
    assert not set(rule.advice) & set(rule.avoid)


@given(cases, st.floats(0, 1))
def test_more_memory_never_makes_a_case_compress_that_did_not(case: Case, factor: float) -> None:
    """A larger pool lowers both pressures; where nothing was compressed for memory, nothing is compressed then."""
    if case.pressure_ratio is None:
        return
    larger = replace(
        case,
        pressure_ratio=case.pressure_ratio * factor,
        pressure_8bit_ratio=None if case.pressure_8bit_ratio is None else case.pressure_8bit_ratio * factor,
    )
    if decisive(case).advice[0] == "native" and decisive(case).id != "unknown_pressure":
        assert decisive(larger).advice[0] == "native" or decisive(larger).id == "fp8_for_speed"


@given(cases)
def test_nothing_is_compressed_for_strict_quality_while_it_fits(case: Case) -> None:
    if case.pressure_ratio is not None and case.pressure_ratio <= 1:
        assert decisive(replace(case, quality="strict")).advice[0] == "native"


@pytest.mark.parametrize(
    ("case", "rule", "first"),
    [
        (replace(H100, pressure_ratio=0.3, context_tokens=4096, break_even_tokens=7010.0), "native_short", "native"),
        (
            replace(
                H100,
                pressure_ratio=0.3,
                break_even_tokens=7010.0,
                head_dim=128,
                kv_step_share_ratio=0.3,
                bound="memory",
            ),
            "fp8_for_speed",
            "fp8",
        ),
        (replace(H100, pressure_ratio=0.3), "native_fits", "native"),
        (replace(H100, pressure_ratio=1.6, pressure_8bit_ratio=0.8), "fp8_default", "fp8"),
        (
            replace(H100, compute_capability=(8, 0), pressure_ratio=1.6, pressure_8bit_ratio=0.8),
            "int8_default",
            "int8",
        ),
        (replace(H100, pressure_ratio=4.0, pressure_8bit_ratio=2.0), "beyond_8bit", "4bit"),
        (
            replace(H100, pressure_ratio=4.0, pressure_8bit_ratio=2.0, task="reasoning"),
            "hard_task_beyond_8bit",
            "8bit",
        ),
        (
            replace(H100, pressure_ratio=4.0, pressure_8bit_ratio=2.0, task="retrieval", context_tokens=131072),
            "long_retrieval_beyond_8bit",
            "8bit",
        ),
        (replace(H100, attention="mla", pressure_ratio=0.5), "latent_fits", "native"),
        (replace(H100, attention="mla", pressure_ratio=1.5, pressure_8bit_ratio=0.9), "latent", "fp8"),
        (
            replace(
                H100,
                attention="mla",
                compute_capability=(10, 0),
                pressure_ratio=3.0,
                pressure_8bit_ratio=1.7,
            ),
            "latent_blackwell",
            "fp4",
        ),
        (
            replace(H100, engine="llamacpp", pressure_ratio=1.5, pressure_8bit_ratio=0.8),
            "local",
            "int8",
        ),
        (
            replace(H100, head_dim=256, prefill_share_ratio=0.8, pressure_ratio=0.9),
            "wide_heads_on_hopper",
            "native",
        ),
        (replace(H100, attention="state", pressure_ratio=3.0), "nothing_to_compress", "native"),
        (H100, "unknown_pressure", "native"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_evidence_decides_as_documented(case: Case, rule: str, first: str) -> None:
    found = decisive(case)
    assert (found.id, found.advice[0]) == (rule, first)


def test_small_windows_stay_native_only_where_the_engine_can_leave_them() -> None:
    windows = replace(H100, window_tokens=128, pressure_ratio=1.5)
    assert "skip_small_windows" in modifiers(windows)
    assert "skip_small_windows" not in modifiers(replace(windows, engine="sglang"))
    assert "skip_small_windows" not in modifiers(replace(windows, window_tokens=1024))


def test_eviction_is_advised_for_single_long_prompts_and_never_in_engines_without_it() -> None:
    long = replace(H100, pressure_ratio=4.0, pressure_8bit_ratio=2.0, prefix_reuse=False)
    assert "no_eviction_in_engine" in modifiers(long)
    assert "evict_single_prompts" not in modifiers(long)
    assert "evict_single_prompts" in modifiers(replace(long, engine="transformers"))
    assert "evict_single_prompts" not in modifiers(replace(long, engine="transformers", prefix_reuse=True))


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({"compute_capability": (8, 9)}, "fp8"),
        ({"compute_capability": (8, 6)}, "int8"),
        ({"gfx_target": "gfx942"}, "fp8"),
        ({"gfx_target": "gfx90a"}, "int8"),
        ({"gfx_target": "gfx1100"}, "int8"),
        ({"vendor": "apple"}, "int8"),
    ],
)
def test_eight_bits_are_fp8_where_tensor_cores_take_it(device: dict[str, object], expected: str) -> None:
    case = Case(context_tokens=1, concurrency=1, **device)  # type: ignore[arg-type]
    assert case.eight_bit == expected
    assert case.fp8_hardware is (expected == "fp8")


def test_an_unknown_device_is_not_said_to_have_fp8_or_not() -> None:
    assert Case(context_tokens=1, concurrency=1, vendor="google").fp8_hardware is None


@pytest.mark.parametrize(
    ("ratio", "name"), [(0.0, "low"), (0.69, "low"), (0.7, "medium"), (1.0, "medium"), (1.001, "high")]
)
def test_pressure_is_low_below_seven_tenths_and_high_where_the_requests_do_not_fit(ratio: float, name: str) -> None:
    assert pressure_class(ratio) == name
    assert Case(context_tokens=1, concurrency=1, pressure_ratio=ratio, kv_share_ratio=0.9).memory_pressure == name


def test_without_a_pool_the_share_of_memory_stands_in_for_pressure() -> None:
    case = Case(context_tokens=1, concurrency=1)
    assert case.memory_pressure is None
    assert replace(case, kv_share_ratio=0.30).memory_pressure == "low"
    assert replace(case, kv_share_ratio=0.31).memory_pressure == "medium"


@pytest.mark.parametrize(
    ("context", "concurrency", "pressure", "recommendation", "exact"),
    [
        (4096, 1, 0.2, "don't compress", True),
        (4096, 64, 0.9, "maybe INT8", True),
        (4096, 64, 0.2, "don't compress", False),
        (4096, 1, 0.9, "maybe INT8", False),
        (4096, 64, 2.0, "maybe INT8", False),
        (8191, 1, 0.2, "don't compress", True),
        (8192, 1, 0.9, "INT8", True),
        (32768, 500, 0.9, "INT8", True),
        (16384, 1, 0.1, "INT8", False),
        (32769, 1, 1.2, "INT8 + pruning", True),
        (131072, 1, 0.1, "INT8 + pruning", False),
    ],
)
def test_the_classic_row_is_chosen_by_context_then_pressure_then_concurrency(
    context: int, concurrency: int, pressure: float, recommendation: str, exact: bool
) -> None:
    found = matrix_row(ADVICE.matrix, Case(context_tokens=context, concurrency=concurrency, pressure_ratio=pressure))
    assert (found.row.recommendation, found.exact) == (recommendation, exact)


def test_the_nearest_row_says_what_it_does_not_cover() -> None:
    found = matrix_row(ADVICE.matrix, Case(context_tokens=4096, concurrency=64, pressure_ratio=0.2))
    assert found.reason == "nearest row of this context: concurrency 64 is high, not low"
    found = matrix_row(ADVICE.matrix, Case(context_tokens=65536, concurrency=1))
    assert found.reason == "nearest row of this context: the memory pressure is not known"


@given(cases)
def test_every_case_has_a_row(case: Case) -> None:
    found = matrix_row(ADVICE.matrix, case)
    assert found.row in ADVICE.matrix
    assert found.exact == (found.reason == "the row applies as it stands")


def test_classic_rules_are_met_not_met_or_open_with_their_numbers() -> None:
    case = replace(
        H100, bound="memory", kv_share_ratio=0.45, step_increase_ratio=0.02, memory_saved_ratio=0.5, shrink_ratio=8.0
    )
    verdicts = {check.rule.id: (check.met, check.shown) for check in classic_rules(ADVICE.classic, case)}
    assert verdicts == {
        "memory_bound": (True, "bound is memory"),
        "large_share": (True, "cache share of memory 45% > 30%"),
        "fair_trade": (True, "longer step 2% <= 5%, memory saved 50% >= 45%"),
        "quality_acceptable": (None, "quality loss is not known, quality is normal, not strict"),
        "compute_bound": (False, "bound is memory, not compute"),
        "short_context": (False, "context 64k, not < 8k"),
        "quality_critical": (False, "quality is normal, not strict"),
        "already_small": (True, "shrunk by the architecture 8 >= 4"),
    }


def row(**changes: object) -> QualityRow:
    values = {"names": ("int8",), "model": "M", "family": "llama", "metric": "GSM8K", "task": "chat", "source": "s"}
    return QualityRow(**{**values, **changes})  # type: ignore[arg-type]


def test_the_figure_of_the_same_task_goes_before_that_of_the_same_family() -> None:
    rows = [row(task="reasoning", family="qwen", loss_ratio=0.01), row(loss_ratio=0.0)]
    found = quality_for(rows, "int8", "reasoning", "llama")
    assert found is not None
    assert (found.row.task, found.same_task, found.same_family) == ("reasoning", True, False)


def test_among_equals_the_largest_loss_is_told() -> None:
    found = quality_for([row(loss_ratio=0.01), row(loss_ratio=0.03), row(loss_ratio=-0.1)], "int8", "chat", "llama")
    assert found is not None
    assert found.row.loss_ratio == 0.03


def test_read_figures_go_before_recalled_ones_and_outdated_ones_are_never_told() -> None:
    rows = [row(loss_ratio=0.5, outdated=True), row(loss_ratio=0.3, recalled=True), row(loss_ratio=0.1, task="batch")]
    found = quality_for(rows, "int8", "chat", "llama")
    assert found is not None
    assert found.row.loss_ratio == 0.1
    assert quality_for(rows, "int4", "chat", "llama") is None


def test_a_figure_of_an_easy_task_warns_those_who_have_a_hard_one() -> None:
    found = quality_for([row(loss_ratio=0.001, baseline=91.6, compressed=91.5)], "int8", "reasoning", "qwen")
    assert found is not None
    assert found.shown == (
        "GSM8K -0.1% (91.6 to 91.5) on M, another model, a chat task, which hides what hard tasks lose"
    )


def test_a_higher_perplexity_is_told_as_more() -> None:
    found = quality_for([row(loss_ratio=0.0027, metric="perplexity", higher=False)], "int8", "chat", "llama")
    assert found is not None
    assert found.shown == "perplexity +0.27% on M"


@pytest.mark.parametrize("kind", ["fp8", "int8", "int4", "prune"])
def test_a_needle_is_asked_for_beyond_64k_and_of_all_that_prunes(kind: str) -> None:
    short, long = (gate_for(ADVICE.gates, kind, "normal", tokens) for tokens in (LONG_CONTEXT, LONG_CONTEXT + 1))
    assert (short.needle_drop_ratio is not None) == (kind == "prune")
    assert long.needle_drop_ratio is not None
    assert "needle drop" in long.shown


def test_the_gate_is_told_in_per_cent() -> None:
    gate = gate_for(ADVICE.gates, "int8", "normal", 4096)
    assert gate.shown == "perplexity increase < 0.5%, accuracy drop < 1%"


def test_the_most_specific_speed_wins_and_another_device_or_engine_never_does() -> None:
    rows = [
        SpeedRow(names=("fp8",), context="any", source="s", efficiency_ratio=0.8),
        SpeedRow(names=("fp8",), context="hopper", source="s", capability_major=9, efficiency_ratio=0.7),
        SpeedRow(names=("fp8",), context="wide", source="s", head_dim=256, efficiency_ratio=0.6),
        SpeedRow(names=("fp8",), context="sglang", source="s", engine="sglang", efficiency_ratio=0.5),
    ]

    def context(head_dim: int | None, capability: tuple[int, int] | None, engine: str = "vllm") -> str:
        found = speed_for(rows, "fp8", engine, head_dim, capability)
        assert found is not None
        return found.context

    assert context(128, (10, 0)) == context(None, None) == "any"
    assert context(128, (9, 0)) == "hopper"
    assert context(256, (9, 0)) == "wide"
    assert context(128, None, "sglang") == "sglang"
    assert speed_for(rows, "int4", "vllm", 128, (9, 0)) is None
