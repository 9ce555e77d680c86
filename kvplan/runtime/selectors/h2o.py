"""H2O (arXiv 2306.14048): heavy hitters by accumulated attention, and the newest tokens.

As published, eviction is online and greedy: called after every token, on what is held, with the attention that the
tokens have received since they are held. Called once after a prompt, it sees the attention of the whole prompt.
"""

from __future__ import annotations

from torch import Tensor

from kvplan.policies.h2o import HeavyHitters
from kvplan.runtime.selector import Observation, Selector, SelectorFactory


class AccumulatedAttention(Selector):
    """The newest part of the budget stays; older tokens compete by accumulated attention for the rest."""

    needs_attention = True

    def score(self, policy: HeavyHitters, seen: Observation, budget: int) -> Tensor:
        """Accumulated attention; ``inf`` for the newest."""
        _, newest = policy.split(budget)
        score = seen.observed("received").clone()
        score[..., max(score.shape[-1] - newest, 0) :] = float("inf")
        return score


SELECTORS: dict[str, SelectorFactory] = {"h2o": lambda _: AccumulatedAttention()}
