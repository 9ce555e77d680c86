"""Attention over rows whose positions have gaps, in plain torch, and the weights that it gives each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 26
"""Attention weights of one chunk of queries: 256 MiB in fp32."""

_CPU_CHUNK_ELEMENTS = 1 << 20
"""On a CPU 4 MiB, which its cache holds: a prefill of 2048 tokens takes a third of the time."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How logits become weights: ``scale``, a ``softcap`` (Gemma 2), and learned ``sinks`` per query head (gpt-oss)."""

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether torch's own kernel does the same."""
        return self.softcap is None and self.sinks is None


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a step's queries looked at: ``received`` [batch, stored heads, tokens] summed over those that were watched,
    and the weights of the newest, ``recent`` [batch, stored heads, queries, tokens]; both averaged over the query heads
    of a group."""

    received: Tensor
    recent: Tensor


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """Which tokens each query sees, by the original positions of both.

    ``positions`` [batch, stored heads, tokens]; the queries stand at ``first_query`` and after it. A query sees itself
    and what is older, but nothing ``window`` or more positions away, and no ``padding`` [batch, positions]. A ``mask``
    [batch, 1 or query heads, queries, positions], True where a query may look, takes the place of all of this.
    """

    positions: Tensor
    first_query: int
    window: int | None = None
    padding: Tensor | None = None
    mask: Tensor | None = None

    def of(self, rows: slice) -> Tensor:
        """[batch, heads, queries, tokens] for some of the queries."""
        heads = self.positions.shape[1]
        if self.mask is not None:
            shown = self.mask[:, :, rows].expand(-1, max(heads, self.mask.shape[1]), -1, -1)
            index = self.positions.to(torch.int64).repeat_interleave(shown.shape[1] // heads, dim=1)
            return shown.gather(3, index[:, :, None].expand(-1, -1, shown.shape[2], -1))
        device = self.positions.device
        queries = torch.arange(self.first_query + rows.start, self.first_query + rows.stop, device=device)
        distance = queries[:, None] - self.positions[:, :, None, :]
        visible = distance >= 0 if self.window is None else (distance >= 0) & (distance < self.window)
        if self.padding is None:
            return visible
        padded = self.padding[:, None].expand(-1, heads, -1).gather(2, self.positions.to(torch.int64))
        return visible & ~padded[:, :, None]

    def counted(self, queries: int) -> Tensor | None:
        """[batch, queries]: False for queries that are padding, which do not see themselves; None where all count."""
        if self.mask is not None:
            own = torch.arange(queries, device=self.mask.device)
            return self.mask[:, 0, own, self.first_query + own]
        if self.padding is not None:
            return ~self.padding[:, self.first_query : self.first_query + queries]
        return None

    def plain_causal(self, queries: int) -> bool:
        """Whether nothing came before the queries, so that the common triangle is all there is to the mask."""
        alone = self.mask is None and self.padding is None and self.positions.shape[2] == queries
        return alone and (self.window is None or self.window >= queries)


def attend(query: Tensor, key: Tensor, value: Tensor, sight: Visibility, scoring: Scoring) -> Tensor:
    """Attention output, [batch, query heads, queries, value width], by torch's own kernel where it can."""
    queries = query.shape[2]
    if not scoring.plain:
        stored_heads = sight.positions.shape[1]
        return attend_and_watch(query, key, value, sight, scoring, stored_heads=stored_heads, recent_queries=0)[0]
    causal = sight.plain_causal(queries)
    mask = None if causal else sight.of(slice(0, queries))
    return _by_torch(query, key, value, mask, causal=causal, scale=scoring.scale)


def _by_torch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool, scale: float) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output: Tensor = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=_for_heads(mask, query.shape[1]), is_causal=causal, scale=scale
    )
    return output


def _attend_early(early: Tensor, key: Tensor, value: Tensor, sight: Visibility, scale: float, queries: int) -> Tensor:
    """The output of the first of ``queries``; in the common triangle they see none of the rows behind them."""
    count = early.shape[2]
    if sight.plain_causal(queries):
        return _by_torch(early, key[:, :, :count], value[:, :, :count], None, causal=True, scale=scale)
    return _by_torch(early, key, value, sight.of(slice(0, count)), causal=False, scale=scale)


def attend_and_watch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Visibility,
    scoring: Scoring,
    *,
    stored_heads: int,
    recent_queries: int,
) -> tuple[Tensor, Watched]:
    """The output and what was looked at, in chunks of queries, so that no matrix of all weights is ever held.

    ``stored_heads`` are those of the cache: fewer than ``key`` has where keys are expanded from a latent. Queries that
    are padding are left out of the sums. With 0 ``recent_queries`` all queries are watched; else only those need be,
    and torch's own kernel attends for the others where it can.
    """
    batch, heads, queries, _ = query.shape
    tokens = key.shape[2]
    elements = _CPU_CHUNK_ELEMENTS if query.device.type == "cpu" else _CHUNK_ELEMENTS
    step = max(1, elements // max(1, batch * heads * tokens))
    counted = sight.counted(queries)
    first_recent = max(0, queries - recent_queries)
    outputs, newest = [], []
    unwatched = first_recent if recent_queries and scoring.plain else 0
    if unwatched:
        outputs.append(_attend_early(query[:, :, :unwatched], key, value, sight, scoring.scale, queries))
    received = query.new_zeros(batch, stored_heads, tokens, dtype=torch.float32)
    for start in range(unwatched, queries, step):
        rows = slice(start, min(start + step, queries))
        weights = _weights(query[:, :, rows], key, sight.of(rows), scoring)
        outputs.append(_weighted(weights, value))
        shared = weights.unflatten(1, (stored_heads, -1)).mean(dim=2)
        if counted is not None:
            shared = shared * counted[:, None, rows, None]
        received += shared.sum(dim=2)
        newest.append(shared[:, :, max(0, first_recent - start) :])
    output = torch.cat([some.to(query.dtype) for some in outputs], dim=2)
    return output, Watched(received=received, recent=torch.cat(newest, dim=2))


def _for_heads(mask: Tensor | None, heads: int) -> Tensor | None:
    """The mask of each query head, from that of its group; one for all heads stays so."""
    if mask is None or mask.shape[1] in (1, heads):
        return mask
    return mask.repeat_interleave(heads // mask.shape[1], dim=1)


def _weights(query: Tensor, key: Tensor, mask: Tensor, scoring: Scoring) -> Tensor:
    """Weights in fp32, [batch, query heads, queries, tokens]; a query that sees nothing gives no weight."""
    batch, heads, queries, width = query.shape
    grouped = query.float().reshape(batch, key.shape[1], -1, width)
    logits = (grouped @ key.float().transpose(2, 3)).reshape(batch, heads, queries, -1) * scoring.scale
    if scoring.softcap is not None:
        logits = torch.tanh(logits / scoring.softcap) * scoring.softcap
    hidden = ~mask if mask.shape[1] in (1, heads) else ~mask.repeat_interleave(heads // mask.shape[1], dim=1)
    logits = logits.masked_fill(hidden, -torch.inf)
    if scoring.sinks is None:
        return logits.softmax(dim=-1).nan_to_num(0.0)
    sinks = scoring.sinks.float().reshape(1, -1, 1, 1).expand(batch, heads, queries, 1)
    return torch.cat([logits, sinks], dim=-1).softmax(dim=-1)[..., :-1]


def _weighted(weights: Tensor, value: Tensor) -> Tensor:
    batch, heads, queries, tokens = weights.shape
    grouped = weights.reshape(batch, value.shape[1], -1, tokens)
    return (grouped @ value.float()).reshape(batch, heads, queries, value.shape[3])
