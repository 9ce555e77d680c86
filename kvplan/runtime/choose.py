"""Which tokens of a layer stay: a selector's scores, and what outranks them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kvplan.core.errors import KvplanError
from kvplan.runtime.selector import Observation, Selector


def choose_tokens(selector: Selector, policy: Any, seen: Observation, budget: int) -> Tensor:
    """Which tokens stay: an index into the tokens held, [batch, kv_heads, kept], ascending.

    ``kept`` is ``budget``, or as many as are held. Only a policy with a threshold keeps fewer: as many as pass it in
    the head where most do, at least one, and the other heads of all sequences fill up with their best.

    Tokens stay in this order, the newer first where it leaves a choice: the policy's own ``sinks`` and ``newest``
    tokens; tokens marked in ``seen.protected``, of which the newest win where they are more than the budget; all
    others by their score; tokens in ``seen.excluded``. Equal scores are told apart the same way on every device.

    Raises KvplanError on scores that are NaN, and UnsupportedError where the policy needs attention and has none.
    """
    tokens, least = seen.positions.shape[-1], selector.least_score(policy)
    if budget >= tokens and least == -math.inf:
        return torch.arange(tokens, device=seen.positions.device).expand(seen.positions.shape)
    ranks, scores = _ranks(policy, seen), selector.score(policy, seen, min(budget, tokens))
    scores = scores.masked_fill(ranks == _EXCLUDED, -math.inf)
    if scores.isnan().any():
        raise KvplanError(
            f"policy {policy.name} cannot rank tokens: a score is not a number",
            "keys or attention weights overflowed; run the model in bf16 or fp32",
        )
    scores = scores.masked_fill(ranks > _SCORED, math.inf)
    kept = budget if least == -math.inf else min(budget, max(1, int((scores >= least).sum(-1).max())))
    return _best_first(ranks, scores)[..., :kept].sort(dim=-1).values


_EXCLUDED, _SCORED, _PROTECTED, _OWN = range(4)


def _ranks(policy: Any, seen: Observation) -> Tensor:
    """[batch, kv_heads, tokens]: what goes before any score."""
    age = torch.arange(seen.positions.shape[-1] - 1, -1, -1, device=seen.positions.device)
    own = (seen.positions < getattr(policy, "sinks", 0)) | (age < getattr(policy, "newest", 0))
    ranks = torch.where(own, _OWN, _SCORED)
    if seen.protected is not None:
        ranks = torch.where(seen.protected & ~own, _PROTECTED, ranks)
    return ranks if seen.excluded is None else ranks.masked_fill(seen.excluded, _EXCLUDED)


def _best_first(ranks: Tensor, scores: Tensor) -> Tensor:
    """All tokens, by rank, then by score, then the newest first: stable sorts, the least important key first."""
    by_score = scores.flip(-1).sort(dim=-1, descending=True, stable=True).indices
    by_rank = ranks.flip(-1).gather(-1, by_score).sort(dim=-1, descending=True, stable=True).indices
    return ranks.shape[-1] - 1 - by_score.gather(-1, by_rank)
