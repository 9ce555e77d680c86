"""TOVA (arXiv 2401.06104): the last query's attention, the same for all heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kvplan.runtime.selector import Observation, Selector, SelectorFactory


class LastQuery(Selector):
    """Tokens stay that the last query attends to most, on average over all heads, and the last token itself.

    The paper does not protect the last token; kvpress 0.5.5 ``TOVAPress`` does, and so does this. All KV heads must
    hold the same tokens, as they do where nothing but this policy has dropped any.
    """

    needs_attention = True
    recent_queries = 1

    def score(self, policy: Any, seen: Observation, budget: int) -> Tensor:
        """The last query's mean weight over the heads, which all groups share alike; ``inf`` for the last token."""
        weights = seen.observed("recent")[..., -1, :].float()
        score = weights.mean(1, keepdim=True).repeat(1, weights.shape[1], 1)
        score[..., -1] = float("inf")
        return score


SELECTORS: dict[str, SelectorFactory] = {"tova": lambda _: LastQuery()}
