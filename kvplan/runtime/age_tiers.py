"""Age tiers: newer tokens in larger formats than older ones, each encoded from its original values.

A token is never encoded twice in a row: when it crosses a border, the next tier encodes the values that the model
computed. A device that saves memory cannot hold those, so they wait in host memory (pinned where there is a GPU, in the
dtype of the model) until the token enters the last tier. Host memory is the price of this scheme; it is no cache
memory, so it is reported apart, by ``host_tensors``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvplan.core.errors import UnsupportedError
from kvplan.core.format import CacheFormat, GroupFormat
from kvplan.core.part import Part
from kvplan.core.policy import Place
from kvplan.policies.tiers import AgeTiers
from kvplan.runtime.codec import Rows
from kvplan.runtime.store import PartStore
from kvplan.runtime.stores import build_store

FormatOfTier = Callable[[str | None], CacheFormat]
"""The format that a tier names; None stands for the request's own."""


class AgeTierStore:
    """A PartStore whose tokens pass through the tiers of a policy as they age; the oldest may fall out.

    Tiers are as large after every append as ``AgeTiers.tiers`` says. Groups along tokens are encoded anew, from the
    originals, whenever their tier loses a token.
    """

    def __init__(self, policy: AgeTiers, part: Part, format_of: FormatOfTier) -> None:
        self._policy = policy
        self._part = part
        names = [tier.cache_format for tier in policy.newest]
        if policy.rest is not None:
            names.append(None if policy.rest == "auto" else policy.rest)
        self._formats = [format_of(name) for name in names]
        self._tiers: list[PartStore] = [self._empty(index) for index in range(len(names))]
        self._waiting = WaitingRows()

    @property
    def num_tokens(self) -> int:
        """Tokens held in all tiers."""
        return sum(tier.num_tokens for tier in self._tiers)

    def append(self, rows: Tensor) -> None:
        """Add newer rows and move older ones on; the rows of ``rows`` that belong to older tiers go there at once."""
        fresh = rows.shape[2]
        before = [tier.num_tokens for tier in self._tiers]
        after = self._sizes(sum(before) + fresh)
        newer_before = newer_after = 0
        for index, (old, new) in enumerate(zip(before, after)):
            oldest = min(newer_before + old + fresh, newer_after + new)
            self._resize(index, stay=max(0, oldest - newer_before - fresh), size=new, newer=newer_after, rows=rows)
            newer_before += old
            newer_after += new
        self._waiting.append(rows, waiting=self._tokens_waiting(after))

    def read(self, dtype: torch.dtype) -> Tensor:
        """All rows, oldest first."""
        return torch.cat([tier.read(dtype) for tier in reversed(self._tiers) if tier.num_tokens], dim=2)

    def keep(self, index: Tensor) -> None:
        """Raise UnsupportedError: which tokens are kept is decided by their age alone."""
        raise UnsupportedError("age tiers drop tokens by age, and no others")

    def select_sequences(self, index: Tensor) -> None:
        """Take the sequences at ``index`` [new batch]."""
        for tier in self._tiers:
            if tier.num_tokens:
                tier.select_sequences(index)
        self._waiting.select_sequences(index)

    def tensors(self) -> Rows:
        """Every tensor of every tier; ``tier0_`` is the newest."""
        return {
            f"tier{index}_{name}": held
            for index, tier in enumerate(self._tiers)
            if tier.num_tokens
            for name, held in tier.tensors().items()
        }

    def host_tensors(self) -> Rows:
        """The originals that wait in host memory; the cache's bytes do not count them."""
        return self._waiting.tensors()

    def _empty(self, index: int) -> PartStore:
        return build_store(self._formats[index], self._part.name, self._part.width)

    def _sizes(self, tokens: int) -> list[int]:
        """Tokens of each tier, newest first."""
        if self._part.limit_tokens is not None:
            tokens = min(tokens, self._part.limit_tokens)
        sizes = [tier.tokens for tier in self._policy.tiers(tokens, Place(0, 1))]
        return sizes + [0] * (len(self._formats) - len(sizes))

    def _resize(self, index: int, *, stay: int, size: int, newer: int, rows: Tensor) -> None:
        """Leave the ``stay`` newest tokens of a tier and let those in that have ``newer`` tokens before them."""
        tier = self._tiers[index]
        leaving = tier.num_tokens - stay
        if leaving and (not stay or isinstance(self._formats[index], GroupFormat)):
            tier, stay = self._empty(index), 0
        elif leaving:
            newest = torch.arange(leaving, leaving + stay, device=rows.device)
            tier.keep(newest.expand(rows.shape[0], rows.shape[1], stay))
        if size > stay:
            tier.append(self._waiting.take(newer, size - stay, rows))  # from the originals
        self._tiers[index] = tier

    def _tokens_waiting(self, sizes: list[int]) -> int:
        """Tokens that will be encoded again: all but the last tier's, unless its groups can lose tokens."""
        loses = self._policy.rest is None or self._part.limit_tokens is not None
        last_waits = loses and isinstance(self._formats[-1], GroupFormat)
        return sum(sizes) if last_waits else sum(sizes[:-1])


class WaitingRows:
    """Original rows in host memory, newest last, in the chunks in which they came.

    A chunk is freed when none of its tokens waits any more, so that a step moves no more than its own rows.
    """

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []

    def append(self, rows: Tensor, waiting: int) -> None:
        """Add newer rows, then free what is older than the newest ``waiting`` rows. Pinned where rows are on a GPU."""
        newest = rows[:, :, max(0, rows.shape[2] - waiting) :].detach()
        if newest.shape[2]:
            self._chunks.append(_host_copy(newest, pinned=rows.is_cuda))
        self._trim(waiting)

    def take(self, newer: int, count: int, fresh: Tensor) -> Tensor:
        """``count`` rows with ``newer`` rows after them, oldest first, of what waits and then of ``fresh``."""
        pieces: list[Tensor] = []
        for chunk in (fresh, *reversed(self._chunks)):
            stop = max(0, chunk.shape[2] - newer)
            start = max(0, stop - count)
            pieces.append(chunk[:, :, start:stop].to(fresh.device))
            newer = max(0, newer - chunk.shape[2])
            count -= stop - start
            if not count:
                break
        return torch.cat(pieces[::-1], dim=2)

    def _trim(self, waiting: int) -> None:
        """Free whole chunks; a chunk of which half is needed no more is copied, so waste stays below one half."""
        kept: list[Tensor] = []
        for chunk in reversed(self._chunks):
            needed = min(waiting, chunk.shape[2])
            waiting -= needed
            if needed:
                fits = 2 * needed > chunk.shape[2]
                kept.append(chunk if fits else _host_copy(chunk[:, :, -needed:], pinned=chunk.is_pinned()))
        self._chunks = kept[::-1]

    def select_sequences(self, index: Tensor) -> None:
        """Take the sequences at ``index`` [new batch]."""
        host_index = index.to("cpu")
        self._chunks = [_host_copy(chunk[host_index], pinned=chunk.is_pinned()) for chunk in self._chunks]

    def tensors(self) -> Rows:
        """The chunks, oldest first."""
        return {f"waiting{index}": chunk for index, chunk in enumerate(self._chunks)}


def _host_copy(rows: Tensor, *, pinned: bool) -> Tensor:
    """A copy in host memory, page-locked where a GPU will read it."""
    host = torch.empty(rows.shape, dtype=rows.dtype, device="cpu", pin_memory=pinned)
    return host.copy_(rows)
