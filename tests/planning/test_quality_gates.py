"""Which limits a method is held to, and when one is passed."""

from __future__ import annotations

import pytest

from kvplan.core.errors import UnknownNameError
from kvplan.core.evaluation import Estimate, Thresholds
from kvplan.planning.quality_gates import canonical_method, judge, method_kinds, percent, thresholds_for
from kvplan.specs.thresholds import ThresholdRules

LONG = 65537


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("none", ()),
        ("int8", ("int8",)),
        ("q8_0", ("int8",)),
        ("fp8", ("fp8",)),
        ("mxfp8", ("fp8",)),
        ("kivi2", ("int4",)),
        ("turboquant_k8v4", ("int4",)),
        ("q8_0/q4_0", ("int8", "int4")),
        ("auto/q4_0", ("int4",)),
        ("fp16", ("int8",)),
        ("h2o:keep=0.5", ("prune",)),
        ("h2o:keep=1", ("int8",)),
        ("threshold:keep=1,threshold=0.01", ("prune",)),
        ("window:1024,sinks=4", ("prune",)),
        ("int8+snapkv:keep=0.5", ("int8", "prune")),
        ("tiers:1024=bf16,4096=int8,rest=int4", ("int8", "int4")),
        ("tiers:1024=bf16,rest=drop", ("prune",)),
        ("press:SnapKVPress:compression_ratio=0.5", ("prune",)),
    ],
)
def test_a_method_is_of_the_kinds_of_its_parts(method: str, kinds: tuple[str, ...]) -> None:
    assert method_kinds(method) == kinds


def test_the_default_limits_are_those_that_were_agreed() -> None:
    limits = {method: thresholds_for(method, 4096) for method in ("int8", "fp8", "int4", "snapkv:keep=0.5")}
    asked = {
        method: (one.perplexity_increase_ratio, one.accuracy_drop_ratio, one.needle_drop_ratio)
        for method, one in limits.items()
    }
    assert asked == {
        "int8": (0.005, 0.01, None),
        "fp8": (0.005, 0.01, None),
        "int4": (0.02, 0.03, None),
        "snapkv:keep=0.5": (0.03, 0.05, 0.05),
    }
    assert thresholds_for("int8", LONG).needle_drop_ratio == 0.02
    assert thresholds_for("int8", 4096, quality="strict").perplexity_increase_ratio == 0.0025


def test_limits_of_a_file_go_from_all_to_the_kind_to_the_method_under_any_of_its_names() -> None:
    rules = ThresholdRules(
        everywhere={"kld_mean": 0.01},
        kinds={"int8": {"kld_mean": 0.005}},
        methods={"int8": {"accuracy_drop_ratio": None}, "h2o:0.5": {"kld_mean": 0.1}},
    )
    assert thresholds_for("int8_per_token_head", 4096, rules) == Thresholds(
        perplexity_increase_ratio=0.005, kld_mean=0.005
    )
    assert thresholds_for("q8_0", 4096, rules).accuracy_drop_ratio == 0.01
    assert thresholds_for("h2o:keep=0.5", 4096, rules).kld_mean == 0.1
    assert thresholds_for("h2o:keep=0.25", 4096, rules).kld_mean == 0.01


def test_an_alias_and_its_format_are_one_method() -> None:
    assert canonical_method("int8+h2o:0.5") == canonical_method("int8_per_token_head+heavy_hitters:keep=0.5")


def test_a_method_that_is_none_is_named_with_what_is_near() -> None:
    with pytest.raises(UnknownNameError) as raised:
        thresholds_for("intt8", 4096)
    assert "int8" in (raised.value.hint or "")


def test_a_limit_is_passed_below_it_only() -> None:
    def verdict(low: float, high: float) -> str:
        estimate = Estimate(value=(low + high) / 2, low=low, high=high, count=8)
        return judge("kld_mean", 0.1, estimate, lambda limit: None).verdict

    assert [verdict(0, 0.09), verdict(0, 0.1), verdict(0.09, 0.2), verdict(0.1, 0.2)] == [
        "pass",
        "inconclusive",
        "inconclusive",
        "fail",
    ]


def test_shares_are_written_short() -> None:
    assert [percent(share) for share in (0.00411, 0.123, -0.00001, 0.05, 1.0, 0.0, 12.3456)] == [
        *("0.41%", "12.3%", "0%", "5%", "100%", "0%", "1,235%")
    ]
