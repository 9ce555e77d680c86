"""Laws of the kept set: exact counts, protection, ties, nesting."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kvplan.core.errors import KvplanError  # noqa: E402
from kvplan.core.policy import Place, kept_tokens  # noqa: E402
from kvplan.policies import get_policy, policy_names  # noqa: E402
from kvplan.runtime.choose import choose_tokens  # noqa: E402
from kvplan.runtime.selector import Observation, Selector  # noqa: E402
from kvplan.runtime.selectors import selector_of  # noqa: E402

BATCH, HEADS, LAYERS = 2, 3, 5
SCORING = ("threshold", "importance", "h2o", "snapkv:window=8", "tova", "keynorm", "pyramidkv:window=8")
LENGTHS = (1, 2, 9, 64, 65, 130, 257)


def random_observation(tokens: int, seed: int = 0) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, HEADS, tokens)
    rows = torch.randn(*shape, 8, generator=generator)
    return Observation(
        keys=rows,
        values=rows,
        positions=torch.arange(tokens).expand(shape),
        received=torch.rand(shape, generator=generator),
        seen_by=torch.arange(tokens, 0, -1).expand(shape),
        recent=torch.rand(BATCH, HEADS, min(tokens, 64), tokens, generator=generator),
        special=torch.rand(BATCH, tokens, generator=generator) < 0.1,
    )


def choose(text: str, seen: Observation, budget: int) -> Any:
    policy = get_policy(text)
    return choose_tokens(selector_of(policy), policy, seen, budget)


def sets(index: Any) -> list[set[int]]:
    return [set(head) for head in index.flatten(0, 1).tolist()]


class Fixed(Selector):
    """Scores that a test states."""

    def __init__(self, *scores: float) -> None:
        self.scores = torch.tensor(scores, dtype=torch.float32)

    def score(self, policy: Any, seen: Observation, budget: int) -> Any:
        return self.scores.expand(seen.positions.shape)


def first_head(scores: Fixed, budget: int, text: str = "keynorm", **fields: Any) -> list[int]:
    seen = replace(random_observation(len(scores.scores)), **fields)
    chosen: list[int] = choose_tokens(scores, get_policy(text), seen, budget)[0, 0].tolist()
    return chosen


@pytest.mark.parametrize("text", [*policy_names(), "window:8,sinks=4", "h2o:0.3,sinks=4,newest=3", "snapkv:0.1"])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_as_many_tokens_stay_as_are_priced(text: str, tokens: int) -> None:
    seen = random_observation(tokens)
    for layer in range(LAYERS):
        budget = kept_tokens(get_policy(text), tokens, Place(layer, LAYERS))
        index = choose(text, seen, budget)
        assert index.shape == (BATCH, HEADS, budget)
        assert (index.diff(dim=-1) > 0).all()
        assert index.min() >= 0
        assert index.max() < tokens


@pytest.mark.parametrize("text", [*SCORING, "window:4k"])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_a_budget_of_everything_keeps_everything(text: str, tokens: int) -> None:
    index = choose(text, random_observation(tokens), tokens + 3)
    assert torch.equal(index, torch.arange(tokens).expand(BATCH, HEADS, tokens))


@pytest.mark.parametrize("text", [*SCORING, "window:4k,sinks=2", "h2o:recent=0.3,sinks=2"])
def test_a_larger_budget_keeps_all_that_a_smaller_one_keeps(text: str) -> None:
    seen = random_observation(90)
    kept = [sets(choose(text, seen, budget)) for budget in range(1, 91)]
    for less, more in pairwise(kept):
        assert all(small < large for small, large in zip(less, more))


@pytest.mark.parametrize("text", SCORING)
@pytest.mark.parametrize("tokens", [10, 40, 200])
@pytest.mark.parametrize("keep", ["0.05", "0.3", "0.9"])
def test_sinks_and_newest_tokens_stay_at_any_ratio(text: str, tokens: int, keep: str) -> None:
    name, _, options = text.partition(":")
    full = f"{name}:{keep},sinks=3,newest=5" + (f",{options}" if options else "")
    for layer in range(LAYERS):
        budget = kept_tokens(get_policy(full), tokens, Place(layer, LAYERS))
        expected = {0, 1, 2} | set(range(tokens - 5, tokens))
        assert all(kept >= expected for kept in sets(choose(full, random_observation(tokens), budget)))


@pytest.mark.parametrize("text", [*SCORING, "window:4k"])
def test_protected_tokens_stay(text: str) -> None:
    seen = random_observation(120)
    generator = torch.Generator().manual_seed(3)
    protected = torch.rand(BATCH, HEADS, 120, generator=generator) < 0.2
    for budget in (int(protected.sum(-1).max()), 60, 119):
        index = choose(text, replace(seen, protected=protected), budget)
        for kept, marks in zip(sets(index), protected.flatten(0, 1)):
            assert kept >= set(marks.nonzero().flatten().tolist())


@pytest.mark.parametrize("text", SCORING)
def test_a_window_is_worth_more_than_any_score(text: str) -> None:
    budget, tokens = 20, 100
    always = {"h2o": 10, "snapkv:window=8": 8, "pyramidkv:window=8": 8, "tova": 1}.get(text, 0)
    for kept in sets(choose(text, random_observation(tokens), budget)):
        assert kept >= set(range(tokens - always, tokens))


def test_of_too_many_protected_tokens_the_newest_stay() -> None:
    protected = torch.tensor([1, 1, 1, 0, 1, 0]).bool().expand(BATCH, HEADS, 6)
    assert first_head(Fixed(9, 9, 1, 9, 0, 9), 2, protected=protected) == [2, 4]


def test_a_policys_own_sinks_and_newest_tokens_outrank_protected_ones() -> None:
    protected = torch.tensor([1, 1, 1, 1, 0, 0]).bool().expand(BATCH, HEADS, 6)
    assert first_head(Fixed(*[0] * 6), 3, "keynorm:sinks=1,newest=1", protected=protected) == [0, 3, 5]


def test_excluded_tokens_go_first_whatever_protects_them() -> None:
    excluded = torch.tensor([1, 1, 0, 0, 0, 0]).bool().expand(BATCH, HEADS, 6)
    protected = torch.ones(BATCH, HEADS, 6).bool()
    scores = Fixed(torch.inf, torch.inf, 0, 3, 2, 1)
    assert first_head(scores, 3, "keynorm:sinks=1", excluded=excluded, protected=protected) == [3, 4, 5]
    assert first_head(scores, 5, excluded=excluded) == [1, 2, 3, 4, 5]


def test_of_equal_scores_the_newer_token_stays() -> None:
    assert first_head(Fixed(1, 2, 1, 1, 0), 3) == [1, 2, 3]
    assert first_head(Fixed(*[torch.inf] * 5), 2) == [3, 4]
    assert first_head(Fixed(*[-torch.inf] * 5), 2) == [3, 4]


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(KvplanError, match="not a number"):
        first_head(Fixed(1, torch.nan, 2), 2)


def test_what_an_excluded_token_scores_does_not_matter() -> None:
    excluded = torch.tensor([0, 1, 0]).bool().expand(BATCH, HEADS, 3)
    assert first_head(Fixed(1, torch.nan, 2), 2, excluded=excluded) == [0, 2]


def test_protected_tokens_stay_below_a_threshold() -> None:
    seen = random_observation(50)
    protected = torch.zeros(BATCH, HEADS, 50).bool()
    protected[..., :6] = True
    index = choose("threshold:1,threshold=1", replace(seen, protected=protected), 50)
    assert index.tolist() == [[[0, 1, 2, 3, 4, 5]] * HEADS] * BATCH


@pytest.mark.parametrize("threshold", ["0.001", "0.01", "0.05", "0.5"])
def test_no_more_pass_a_threshold_than_the_ratio_keeps(threshold: str) -> None:
    seen = random_observation(100)
    kept = choose(f"threshold:0.4,threshold={threshold}", seen, 40)
    passing = int((seen.received / seen.seen_by >= float(threshold)).sum(-1).max())
    assert kept.shape[-1] == min(40, passing)
    assert all(some <= most for some, most in zip(sets(kept), sets(choose("threshold:0.4", seen, 40))))
