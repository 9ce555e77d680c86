"""Attention threshold: the attention that a token receives on average from each query that sees it."""

from __future__ import annotations

from torch import Tensor

from kvplan.policies.threshold import Threshold
from kvplan.runtime.selector import Observation, Selector, SelectorFactory


class MeanAttention(Selector):
    """Tokens of high mean attention stay (kvpress 0.5.5 ``ObservedAttentionPress``), above a threshold if wished."""

    needs_attention = True

    def score(self, policy: Threshold, seen: Observation, budget: int) -> Tensor:
        """Attention received per query, in [0, 1]; 0 for a token that no query has seen."""
        return seen.observed("received").float() / seen.observed("seen_by").clamp(min=1)

    def least_score(self, policy: Threshold) -> float:
        """The threshold."""
        return float(policy.threshold)


SELECTORS: dict[str, SelectorFactory] = {"threshold": lambda _: MeanAttention()}
