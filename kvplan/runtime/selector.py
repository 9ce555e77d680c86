"""The contract of a selector: the torch half of a retention policy, which says which tokens stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from kvplan.core.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a selector may look at in one layer; axis ``tokens`` runs over all tokens held, oldest first.

    ``keys``, ``values``  [batch, kv_heads, tokens, width], with rotary positions applied
    ``positions``         [batch, kv_heads, tokens], the original position of each token
    ``received``          [batch, kv_heads, tokens], attention weights received from every query so far, summed over
                          queries and averaged over the query heads of the group; None where attention was not
                          observed, and for selectors that ask for the newest queries alone
    ``seen_by``           [batch, kv_heads, tokens], the number of queries in that sum
    ``recent``            [batch, kv_heads, queries, tokens], the weights of the newest queries (as many as the
                          selector asks for), averaged over the group's query heads
    ``special``           [batch, tokens_seen] or None: marks special tokens by original position
    ``protected``         [batch, kv_heads, tokens] or None: tokens that must stay
    ``excluded``          [batch, kv_heads, tokens] or None: tokens that no query can see any more (padding, or older
                          than the layer's window); they go before any other, whatever a policy protects
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    received: Tensor | None = None
    seen_by: Tensor | None = None
    recent: Tensor | None = None
    special: Tensor | None = None
    protected: Tensor | None = None
    excluded: Tensor | None = None

    def observed(self, name: str) -> Tensor:
        """``received``, ``seen_by`` or ``recent``. Raises UnsupportedError where attention was not observed."""
        found: Tensor | None = getattr(self, name)
        if found is None:
            raise UnsupportedError(
                "the policy ranks tokens by their attention weights, and those were not observed",
                "observe attention, or take a policy that needs none: window or keynorm",
            )
        return found


class Selector(Protocol):
    """Scores tokens for one policy; where scores are equal the newer token stays.

    ``kvplan.runtime.selectors.selector_of(policy)`` builds it, ``kvplan.runtime.choose.choose_tokens`` asks it.
    Subclasses of this class inherit what they do not state.
    """

    needs_attention: bool = False
    """Whether it looks at attention: ``Observation.received`` and ``seen_by``, or ``recent``."""
    recent_queries: int = 0
    """How many of the newest queries ``Observation.recent`` should hold, or all where there are fewer; 0 for none, and
    ``received`` in its place."""

    def score(self, policy: Any, seen: Observation, budget: int) -> Tensor:
        """[batch, kv_heads, tokens], the higher the sooner kept; ``inf`` where the policy itself protects a token."""
        ...

    def least_score(self, policy: Any) -> float:
        """Tokens that score less are dropped even where the budget has room for them."""
        return float("-inf")


SelectorFactory = Callable[[Any], Selector]
"""Builds the selector of a policy; most do not depend on its options."""
