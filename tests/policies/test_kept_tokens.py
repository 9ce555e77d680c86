"""Kept tokens against the papers and the reference implementations."""

from __future__ import annotations

import pytest

from kvplan.core.policy import Place, Tier, kept_tokens
from kvplan.policies import get_policy


def budgets(text: str, tokens: int, layers: int) -> list[int]:
    return [kept_tokens(get_policy(text), tokens, Place(index, layers)) for index in range(layers)]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("none", 131072, 131072),
        ("window:4096", 131072, 4096),
        ("window:4096,sinks=4", 131072, 4100),  # StreamingLLM, arXiv 2309.17453: sinks + window
        ("window:4096,sinks=4", 4098, 4098),
        ("streaming_llm:1020", 131072, 1024),
        ("h2o:keep=0.2", 10, 2),  # arXiv 2306.14048: 10 % heavy hitters and 10 % recent tokens
        ("h2o:keep=0.2", 32768, 6553),
        ("snapkv:0.5", 32768, 16384),
        ("snapkv:0.1", 200, 64),  # the observation window stays
        ("snapkv:0.1", 40, 40),
        ("tova:0.125", 4096, 512),
        ("keynorm:25%", 4096, 1024),
        ("threshold:0.3", 10, 3),
        ("importance:0.5", 1, 1),
    ],
)
def test_a_policy_keeps_what_its_paper_says(text: str, tokens: int, expected: int) -> None:
    assert kept_tokens(get_policy(text), tokens, Place(0, 1)) == expected


def test_h2o_splits_its_budget_evenly() -> None:
    policy = get_policy("h2o:keep=0.2")
    assert policy.budgets(1000) == (100, 100)
    assert policy.budgets(1007) == (100, 101)


# kvpress 0.5.5 PyramidKVPress.get_layer_budget, window 64, beta 20.
@pytest.mark.parametrize(
    ("keep", "tokens", "expected"),
    [
        ("0.5", 512, [448, 320, 192, 64]),
        ("0.5", 4096, [3994, 3438, 2882, 2326, 1770, 1214, 658, 102]),
        ("0.25", 8192, [3994, 3438, 2882, 2326, 1770, 1214, 658, 102]),
        ("0.1", 1000, [100] * 4),  # the last layer could not hold the window: flat
        ("1", 512, [512] * 4),
    ],
)
def test_pyramidkv_gives_the_budgets_of_kvpress(keep: str, tokens: int, expected: list[int]) -> None:
    assert budgets(f"pyramidkv:{keep}", tokens, len(expected)) == expected


@pytest.mark.parametrize("keep", ["0.5", "0.37", "0.9", "0.25", "1/3"])
@pytest.mark.parametrize("tokens", [640, 641, 5000, 5001, 32767])
@pytest.mark.parametrize("layers", [1, 2, 5, 32])
def test_pyramidkv_moves_tokens_between_layers_and_loses_none(keep: str, tokens: int, layers: int) -> None:
    flat = kept_tokens(get_policy(f"importance:{keep}"), tokens, Place(0, 1))
    assert sum(budgets(f"pyramidkv:{keep}", tokens, layers)) == layers * flat


def test_pyramidkv_stays_a_pyramid_where_the_ratio_leaves_half_a_token() -> None:
    assert budgets("pyramidkv:0.5", 513, 4) == pytest.approx(budgets("pyramidkv:0.5", 512, 4), abs=2)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1000, (Tier(1000, "bf16"),)),
        (1024, (Tier(1024, "bf16"),)),
        (5000, (Tier(1024, "bf16"), Tier(3976, "int8"))),
        (10000, (Tier(1024, "bf16"), Tier(4096, "int8"), Tier(4880, "int4"))),
    ],
)
def test_age_tiers_fill_from_the_newest_token(tokens: int, expected: tuple[Tier, ...]) -> None:
    assert get_policy("tiers:1024=bf16,4096=int8,rest=int4").tiers(tokens, Place(0, 1)) == expected


def test_age_tiers_can_drop_the_rest() -> None:
    policy = get_policy("tiers:1k=auto,4k=int8,rest=drop")
    assert policy.tiers(10000, Place(0, 1)) == (Tier(1024, None), Tier(4096, "int8"))
    assert policy.growth(10000, Place(0, 1)) == 0
    assert policy.format_names == ("int8",)


def test_two_tiers_may_be_of_equal_size() -> None:
    policy = get_policy("tiers:1024=bf16,1024=int8,rest=int4")
    assert [tier.tokens for tier in policy.tiers(4096, Place(0, 1))] == [1024, 1024, 2048]
    assert policy.format_names == ("bf16", "int8", "int4")
