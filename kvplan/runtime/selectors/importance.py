"""Importance: attention received, recency and special tokens, weighted."""

from __future__ import annotations

from torch import Tensor

from kvplan.policies.importance import Importance
from kvplan.runtime.selector import Observation, Selector, SelectorFactory


class WeightedScore(Selector):
    """Tokens with the highest weighted sum stay; attention is observed only where it has a weight."""

    def __init__(self, policy: Importance) -> None:
        self.needs_attention = policy.attention > 0

    def score(self, policy: Importance, seen: Observation, budget: int) -> Tensor:
        """The sum of three terms in [0, 1], each times its weight. Without ``seen.special`` no token is special."""
        positions = seen.positions.clamp(min=0)
        score = float(policy.recency) * (positions + 1) / (positions.amax(-1, keepdim=True) + 1)
        if policy.attention:
            received = seen.observed("received").float()
            most = received.amax(-1, keepdim=True).clamp(min=1e-30)
            score = score + float(policy.attention) * (received / most)
        if seen.special is not None:
            special = seen.special[:, None, :].expand(-1, positions.shape[1], -1).gather(-1, positions)
            score = score + float(policy.special) * special
        return score


SELECTORS: dict[str, SelectorFactory] = {"importance": WeightedScore}
