"""What every retention policy must satisfy; a new file in ``kvplan/policies`` is held to it without an edit here."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from types import ModuleType

import pytest

from kvplan.core.policy import Place, RetentionPolicy, describe_policy, kept_tokens
from kvplan.core.registry import modules
from kvplan.policies import get_policy, names_of, policy_names

NAMES = sorted({name for module in modules("kvplan.policies") for name in names_of(module)})
RATIOS = [name for name in policy_names() if any(field.name == "keep" for field in fields(get_policy(name)))]
CONTEXTS = (1, 2, 3, 63, 64, 65, 127, 1000, 1279, 1280, 4096, 4100, 5121, 32768, 131072)
COUNT = 6


def total_kept(policy: RetentionPolicy, tokens: int) -> int:
    """Over a stack of layers: a policy may move tokens from one layer to another as the context grows."""
    return sum(kept_tokens(policy, tokens, Place(index, COUNT)) for index in range(COUNT))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves_and_its_description_round_trips(name: str) -> None:
    policy = get_policy(name)
    assert get_policy(describe_policy(policy)) == policy
    assert get_policy(name.replace("_", "-").upper()) == policy


def test_no_two_policies_share_a_name() -> None:
    names = [name for module in modules("kvplan.policies") for name in names_of(module)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", list(modules("kvplan.policies")), ids=lambda module: module.__name__)
def test_a_file_is_named_after_its_policy_and_says_what_it_keeps(module: ModuleType) -> None:
    assert module.__name__.rsplit(".", 1)[1] == module.POLICY.name
    assert len(type(module.POLICY).__doc__) > 20


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", CONTEXTS)
def test_something_is_kept_and_never_more_than_there_is(name: str, tokens: int) -> None:
    for index in range(COUNT):
        tiers = get_policy(name).tiers(tokens, Place(index, COUNT))
        assert 1 <= sum(tier.tokens for tier in tiers) <= tokens
        assert all(tier.tokens > 0 for tier in tiers)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_layer_keeps_nothing(name: str) -> None:
    assert kept_tokens(get_policy(name), 0, Place(0, 1)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_longer_context_never_keeps_fewer_tokens(name: str) -> None:
    totals = [total_kept(get_policy(name), tokens) for tokens in range(1, 6000, 7)]
    assert totals == sorted(totals)


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("tokens", CONTEXTS)
def test_a_larger_ratio_never_keeps_fewer_tokens(name: str, tokens: int) -> None:
    policies = [replace(get_policy(name), keep=Fraction(step, 20)) for step in range(1, 21)]
    totals = [total_kept(policy, tokens) for policy in policies]
    assert totals == sorted(totals)


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("tokens", CONTEXTS)
def test_a_ratio_of_one_keeps_everything_in_every_layer(name: str, tokens: int) -> None:
    policy = get_policy(f"{name}:keep=1")
    for index in range(COUNT):
        assert kept_tokens(policy, tokens, Place(index, COUNT)) == tokens
        assert policy.growth(tokens, Place(index, COUNT)) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [50, 3000, 65536])
def test_growth_is_the_slope_of_the_kept_tokens(name: str, tokens: int) -> None:
    policy, step = get_policy(name), 10 if tokens < 1000 else 1000
    for index in range(COUNT):
        place = Place(index, COUNT)
        growth = policy.growth(tokens, place)
        slope = Fraction(kept_tokens(policy, tokens + step, place) - kept_tokens(policy, tokens, place), step)
        assert 0 <= growth <= 1
        assert abs(slope - growth) <= Fraction(1, step)


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_that_does_not_depend_on_the_layer_says_so(name: str) -> None:
    policy = get_policy(name)
    kept = {kept_tokens(policy, 8192, Place(index, COUNT)) for index in range(COUNT)}
    assert (len(kept) > 1) == getattr(policy, "per_layer", False)
