"""SnapKV (arXiv 2404.14469): the newest queries vote, which is also how PyramidKV (arXiv 2406.02069) fills its budgets.

Order of the means as in kvpress 0.5.5 ``SnapKVPress``: over queries, over neighbours, over the heads of a group. All
three are linear, so that it does not matter that ``Observation.recent`` has averaged the group already.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from kvplan.core.policy import KeepVoted
from kvplan.runtime.selector import Observation, Selector, SelectorFactory


class WindowVotes(Selector):
    """Tokens stay that the last ``window`` queries attend to most, and the window itself."""

    needs_attention = True

    def __init__(self, policy: KeepVoted) -> None:
        self.recent_queries = policy.window

    def score(self, policy: KeepVoted, seen: Observation, budget: int) -> Tensor:
        """Mean attention weight, pooled over neighbours older than the window; ``inf`` for the window."""
        votes = seen.observed("recent")[..., -policy.window :, :].float().mean(-2)
        older = votes.shape[-1] - policy.window
        if older <= 0:
            return torch.full_like(votes, float("inf"))
        pooled = avg_pool1d(votes[..., :older], policy.kernel, stride=1, padding=policy.kernel // 2)
        return pad(pooled, (0, policy.window), value=float("inf"))


SELECTORS: dict[str, SelectorFactory] = {"snapkv": WindowVotes, "pyramidkv": WindowVotes}
