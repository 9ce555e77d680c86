"""Recency: the newest tokens, which is also what age tiers keep, and what is left to say where all are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvplan.runtime.selector import Observation, Selector, SelectorFactory


class Recency(Selector):
    """All tokens are worth the same, so that the newest stay (StreamingLLM, arXiv 2309.17453, with the sinks)."""

    def score(self, policy: Any, seen: Observation, budget: int) -> Tensor:
        """0 everywhere."""
        return torch.zeros_like(seen.positions, dtype=torch.float32)


SELECTORS: dict[str, SelectorFactory] = {
    "window": lambda _: Recency(),
    "tiers": lambda _: Recency(),
    "none": lambda _: Recency(),
}
