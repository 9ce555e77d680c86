"""Tokens that a policy's options keep whatever the ratio: they count towards it, and stay where it is smaller."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kvplan.core.policy import Place, kept_tokens
from kvplan.policies import get_policy

COUNT = 6
POLICIES = (
    "keynorm:0.1,sinks=4",
    "h2o:0.2,sinks=4,newest=60",
    "importance:0.3,newest=128",
    "snapkv:0.1,sinks=4,newest=100",
    "pyramidkv:0.3,sinks=4,newest=100",
)


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("h2o:0.2,sinks=4,newest=8", 10, 10),
        ("h2o:0.2,sinks=4,newest=8", 40, 12),
        ("h2o:0.2,sinks=4,newest=8", 100, 20),
        ("snapkv:0.1,sinks=4", 200, 68),  # the window and the sinks
        ("snapkv:0.1,newest=70", 200, 70),  # the newest 70, the window among them
        ("threshold:0.5,threshold=0.01", 200, 100),  # the most that stay
    ],
)
def test_the_price_holds_what_is_always_kept(text: str, tokens: int, expected: int) -> None:
    assert kept_tokens(get_policy(text), tokens, Place(0, 1)) == expected


def test_a_pyramid_whose_last_layer_could_not_hold_them_is_flat() -> None:
    def budgets(text: str) -> list[int]:
        return [kept_tokens(get_policy(text), 512, Place(layer, 4)) for layer in range(4)]

    assert budgets("pyramidkv:0.5") == [448, 320, 192, 64]
    assert budgets("pyramidkv:0.5,sinks=1") == [256] * 4


@pytest.mark.parametrize("text", POLICIES)
def test_a_longer_context_never_keeps_fewer_tokens(text: str) -> None:
    policy = get_policy(text)
    kept = [sum(kept_tokens(policy, tokens, Place(i, COUNT)) for i in range(COUNT)) for tokens in range(1, 4000, 3)]
    assert kept == sorted(kept)


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("tokens", [20, 150, 3000, 65536])
def test_growth_is_the_slope_of_the_kept_tokens(text: str, tokens: int) -> None:
    policy, step = get_policy(text), 10 if tokens < 1000 else 1000
    for index in range(COUNT):
        place = Place(index, COUNT)
        slope = Fraction(kept_tokens(policy, tokens + step, place) - kept_tokens(policy, tokens, place), step)
        assert abs(slope - policy.growth(tokens, place)) <= Fraction(1, step)


@pytest.mark.parametrize("recent", ["0", "0.25", "1/3", "1"])
def test_heavy_hitters_and_newest_tokens_add_up(recent: str) -> None:
    policy = get_policy(f"h2o:recent={recent}")
    for kept in range(50):
        heavy, newest = policy.split(kept)
        assert heavy + newest == kept
        assert 0 <= newest - Fraction(recent) * kept < 1
