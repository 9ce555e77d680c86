"""What each policy prefers, and H2O against brute force on the whole attention matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kvplan.core.errors import UnsupportedError  # noqa: E402
from kvplan.policies import get_policy, policy_names  # noqa: E402
from kvplan.runtime.choose import choose_tokens  # noqa: E402
from kvplan.runtime.selector import Observation  # noqa: E402
from kvplan.runtime.selectors import selector_of  # noqa: E402


def observation(tokens: int, **fields: Any) -> Observation:
    """One sequence, one head, no attention but what is given."""
    rows = torch.zeros(1, 1, tokens, 4)
    given = {"keys": rows, "values": rows, "positions": torch.arange(tokens)[None, None]} | fields
    return Observation(**given)


def kept(text: str, seen: Observation, budget: int) -> list[int]:
    policy = get_policy(text)
    chosen: list[int] = choose_tokens(selector_of(policy), policy, seen, budget)[0, 0].tolist()
    return chosen


def row(*values: float) -> Any:
    return torch.tensor(values, dtype=torch.float32)[None, None]


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_has_a_selector(name: str) -> None:
    assert selector_of(get_policy(name)).recent_queries >= 0


def test_a_policy_without_a_selector_is_a_lookup_error() -> None:
    class Unknown:
        name = "unknown"

    with pytest.raises(LookupError, match="unknown has no selector"):
        selector_of(Unknown())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in policy_names() if selector_of(get_policy(name)).needs_attention])
def test_a_policy_that_ranks_by_attention_says_so_where_none_was_observed(name: str) -> None:
    with pytest.raises(UnsupportedError, match="not observed"):
        kept(name, observation(200), 100)


def test_a_window_keeps_the_newest_tokens_and_the_sinks() -> None:
    assert kept("window:3", observation(8), 3) == [5, 6, 7]
    assert kept("window:3,sinks=2", observation(8), 5) == [0, 1, 5, 6, 7]


def test_sinks_are_positions_and_not_places() -> None:
    seen = observation(4, positions=torch.tensor([[[1, 5, 6, 7]]]))
    assert kept("window:2,sinks=2", seen, 3) == [0, 2, 3]


def test_keynorm_keeps_small_keys() -> None:
    keys = torch.tensor([3.0, 1.0, -2.0, 0.5])[None, None, :, None].expand(1, 1, 4, 8)
    assert kept("keynorm", observation(4, keys=keys), 2) == [1, 3]


def test_keynorm_tells_long_keys_apart_in_half_precision() -> None:
    keys = torch.full((1, 1, 3, 128), 3e4, dtype=torch.float16)
    keys[0, 0, 1, 0] = 2.9e4
    assert kept("keynorm", observation(3, keys=keys), 1) == [1]


def test_threshold_divides_by_the_queries_that_see_a_token() -> None:
    seen = observation(4, received=row(2.0, 1.5, 0.2, 0.3), seen_by=row(4, 3, 2, 1))
    assert kept("threshold", seen, 3) == [0, 1, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("threshold:1,threshold=0.5", [0, 1]),
        ("threshold:1,threshold=0.3", [0, 1, 3]),
        ("threshold:1,threshold=0.9", [1]),
        ("threshold:1,threshold=0.9,newest=1", [3]),
        ("threshold:1,threshold=0.5,newest=1", [0, 1, 3]),
        ("threshold:1", [0, 1, 2, 3]),
    ],
)
def test_a_threshold_drops_what_lies_below_it_but_never_everything(text: str, expected: list[int]) -> None:
    seen = observation(4, received=row(2.0, 1.5, 0.2, 0.3), seen_by=row(4, 3, 2, 1))
    assert kept(text, seen, 4) == expected


def test_the_head_in_which_most_tokens_pass_sets_the_count_for_all() -> None:
    received = torch.tensor([[[0.9, 0.1, 0.8, 0.2]], [[0.1, 0.9, 0.2, 0.3]]])
    seen = observation(4, received=received, seen_by=torch.ones(2, 1, 4), positions=torch.arange(4).expand(2, 1, 4))
    policy = get_policy("threshold:1,threshold=0.5")
    assert choose_tokens(selector_of(policy), policy, seen, 4).tolist() == [[[0, 2]], [[1, 3]]]


def test_importance_adds_its_terms_as_weighted() -> None:
    special = torch.tensor([[True, False, False, False]])
    seen = observation(4, received=row(1.0, 4.0, 2.0, 0.0), special=special)
    policy = get_policy("importance")
    score = selector_of(policy).score(policy, seen, 2)
    expected = [0.4 / 4 + 0.3 / 4 + 0.3, 0.4 + 0.3 / 2, 0.4 / 2 + 0.3 * 3 / 4, 0.3]
    torch.testing.assert_close(score, row(*expected))


def test_importance_by_one_term_alone() -> None:
    seen = observation(4, received=row(1.0, 4.0, 2.0, 0.0), special=torch.tensor([[True, False, False, False]]))
    assert kept("importance:recency=0,special=0", seen, 2) == [1, 2]
    assert kept("importance:attention=0,special=0", seen, 2) == [2, 3]
    assert kept("importance:attention=0,recency=0", seen, 2) == [0, 3]


def test_importance_without_a_weight_on_attention_needs_none() -> None:
    policy = get_policy("importance:attention=0")
    assert not selector_of(policy).needs_attention
    assert kept("importance:attention=0", observation(3), 2) == [1, 2]


def test_special_tokens_are_found_by_their_original_position() -> None:
    special = torch.tensor([[False] * 6 + [True, False]])
    seen = observation(3, positions=torch.tensor([[[2, 6, 7]]]), special=special)
    assert kept("importance:attention=0,recency=0.1", seen, 1) == [1]


def test_snapkv_pools_votes_over_neighbours_and_keeps_its_window() -> None:
    votes = torch.zeros(1, 1, 2, 12)
    votes[..., 4], votes[..., 9] = 0.5, 0.1
    seen = observation(12, recent=votes)
    assert kept("snapkv:window=2,kernel=5", seen, 7) == [2, 3, 4, 5, 6, 10, 11]
    assert kept("snapkv:window=2,kernel=1", seen, 4) == [4, 9, 10, 11]


def test_snapkv_looks_at_the_queries_of_its_window_only() -> None:
    votes = torch.zeros(1, 1, 3, 6)
    votes[0, 0, 0, 0], votes[0, 0, 1:, 1] = 9.0, 0.1
    assert kept("snapkv:window=2,kernel=1", observation(6, recent=votes), 3) == [1, 4, 5]
    assert selector_of(get_policy("snapkv:window=2")).recent_queries == 2


def test_a_prompt_within_the_window_keeps_its_newest_tokens() -> None:
    assert kept("snapkv:window=8", observation(6, recent=torch.rand(1, 1, 6, 6)), 4) == [2, 3, 4, 5]


def test_tova_asks_all_heads_together_and_keeps_the_last_token() -> None:
    recent = torch.tensor([[[[9.0, 9.0, 9.0, 9.0], [0.6, 0.0, 0.3, 0.1]], [[9.0] * 4, [0.0, 0.2, 0.7, 0.0]]]])
    seen = observation(4, recent=recent, positions=torch.arange(4).expand(1, 2, 4))
    policy = get_policy("tova")
    assert choose_tokens(selector_of(policy), policy, seen, 3).tolist() == [[[0, 2, 3]] * 2]


def test_h2o_splits_its_budget_between_heavy_and_newest() -> None:
    seen = observation(8, received=row(1, 9, 2, 8, 3, 4, 0, 0))
    assert kept("h2o", seen, 4) == [1, 3, 6, 7]
    assert kept("h2o", seen, 5) == [1, 3, 5, 6, 7]
    assert kept("h2o:recent=0", seen, 4) == [1, 3, 4, 5]
    assert kept("h2o:recent=1", seen, 4) == [4, 5, 6, 7]
    assert kept("h2o:sinks=1", seen, 4) == [0, 1, 6, 7]


def h2o_by_brute_force(logits: list[list[float]], budgets: list[int]) -> list[list[int]]:
    """Algorithm 1 of arXiv 2306.14048 with its window of recent tokens, one head, in plain Python.

    At every step the new query attends to the tokens that are left and itself; each token's score is the sum of the
    weights it has had; while there are more than the budget, the least of those that are not recent goes (of equals
    the older).
    """
    held: list[int] = []
    score: dict[int, float] = {}
    history = []
    for step, budget in enumerate(budgets):
        held.append(step)
        top = max(logits[step][token] for token in held)
        raised = {token: 2.718281828459045 ** (logits[step][token] - top) for token in held}
        for token in held:
            score[token] = score.get(token, 0.0) + raised[token] / sum(raised.values())
        while len(held) > budget:
            recent = budget - budget // 2
            held.remove(min(held[: len(held) - recent], key=lambda token: (score[token], token)))
        history.append(list(held))
    return history


def h2o_step_by_step(logits: Any, budgets: list[int], text: str = "h2o") -> list[list[int]]:
    """The selector asked after every token, with attention over the tokens that it left."""
    policy = get_policy(text)
    selector = selector_of(policy)
    positions, received = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    history = []
    for step, budget in enumerate(budgets):
        positions = torch.cat([positions, torch.tensor([step])])
        received = torch.cat([received, received.new_zeros(1)]) + logits[step, positions].softmax(0)
        seen = observation(len(positions), positions=positions[None, None], received=received[None, None])
        index = choose_tokens(selector, policy, seen, budget)[0, 0]
        positions, received = positions[index], received[index]
        history.append(positions.tolist())
    return history


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("keep", ["0.2", "0.5", "8", "13"])
def test_h2o_equals_brute_force_on_the_attention_matrix(seed: int, keep: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = 64 - 7 * seed
    logits = 2 * torch.randn(tokens, tokens, generator=generator, dtype=torch.float64)
    policy = get_policy(f"h2o:{keep}") if "." in keep else None
    budgets = [sum(policy.budgets(step + 1)) if policy is not None else int(keep) for step in range(tokens)]
    expected = h2o_by_brute_force(logits.tolist(), budgets)
    assert h2o_step_by_step(logits, budgets) == expected
    assert expected[-1] != list(range(tokens - len(expected[-1]), tokens)), "a window would have done"


def test_h2o_evicts_online_and_not_by_the_final_sums() -> None:
    """A token that is dropped early cannot come back when later queries would have attended to it."""
    logits = torch.zeros(12, 12, dtype=torch.float64)
    logits[:, 1] = -4.0
    logits[9:, 1] = 60.0
    history = h2o_step_by_step(logits, [4] * 12)
    weights = logits.masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf).softmax(-1)
    assert weights.sum(0).argsort(descending=True).tolist().index(1) <= 1
    assert 1 not in history[-1]


@pytest.mark.parametrize("name", [name for name in policy_names() if name not in ("none", "tiers", "window")])
def test_scores_do_not_change_what_was_observed(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    seen = observation(
        100,
        keys=torch.randn(1, 1, 100, 4, generator=generator),
        received=torch.rand(1, 1, 100, generator=generator),
        seen_by=torch.arange(100, 0, -1)[None, None],
        recent=torch.rand(1, 1, 70, 100, generator=generator),
    )
    before = replace(seen, received=seen.received.clone(), recent=seen.recent.clone())
    kept(name, seen, 70)
    assert torch.equal(seen.received, before.received)
    assert torch.equal(seen.recent, before.recent)
