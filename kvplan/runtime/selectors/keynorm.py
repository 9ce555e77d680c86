"""Key norm (arXiv 2406.11430): keys of small L2 norm draw attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvplan.runtime.selector import Observation, Selector, SelectorFactory


class SmallKeys(Selector):
    """Keys of small norm stay (kvpress 0.5.5 ``KnormPress``)."""

    def score(self, policy: Any, seen: Observation, budget: int) -> Tensor:
        """The negative norm, in float32."""
        return -torch.linalg.vector_norm(seen.keys, dim=-1, dtype=torch.float32)


SELECTORS: dict[str, SelectorFactory] = {"keynorm": lambda _: SmallKeys()}
