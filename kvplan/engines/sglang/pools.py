"""The pools of one rank: bytes per token, the tokens that a memory holds, the rows that requests need.

``model_executor/pool_configurator.py`` (``DefaultPoolConfigurator``, ``HybridSWAPoolConfigurator``,
``SWARequestCapPoolConfigurator``) sizes them, ``mem_cache/memory_pool.py`` and ``swa_memory_pool.py`` allocate them:
every pool has the rows of one more page, which takes the writes of padding.
"""

from __future__ import annotations

from kvplan.core.errors import DoesNotFitError
from kvplan.core.frozen import dataclass
from kvplan.core.units import round_up
from kvplan.engines.sglang.layers import PoolLayer

EVICTION_INTERVAL = 128
"""Decode steps between two evictions of tokens that left their window (``SGLANG_SWA_EVICTION_INTERVAL``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSizes:
    """Tokens of the full pool and of the windowed one, without the dummy pages."""

    full: int
    windowed: int = 0

    @property
    def capacity(self) -> int:
        """SGLang's ``max_total_num_tokens``: the full pool, or the windowed one where there is no other."""
        return self.full or self.windowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """``extra_row_bytes`` are a token's bytes that belong to no layer (the dequantization workspace of nvfp4).

    ``fixed_bytes`` do not depend on tokens (nvfp4's two fp32 scales for each layer) and are outside the budget.

    ``draft_index`` prices an index for every draft layer apart from its rows (sparse attention).
    ``request_cap`` is the windowed pool's size where requests set it, not ``ratio``.
    """

    layers: tuple[PoolLayer, ...]
    page_tokens: int
    ratio: float = 0.0
    extra_row_bytes: int = 0
    fixed_bytes: int = 0
    request_cap: int | None = None
    draft_index: bool = False

    def row_bytes(self, windowed: bool) -> int:
        """One token in all layers of a pool, the drafts' included: what is allocated."""
        rows = sum(layer.row_bytes for layer in self.layers if layer.windowed == windowed)
        return rows + (0 if windowed else self.extra_row_bytes)

    @property
    def hybrid(self) -> bool:
        """Whether windowed layers have their own pool."""
        return any(layer.windowed for layer in self.layers)

    @property
    def cell_bytes(self) -> float:
        """Bytes of the budget that one token of ``max_total_num_tokens`` takes; whole unless pools are two.

        The plain pool prices drafts as the mean of the model's own layers
        (``pool_configurator.py:252-316``), an index for every draft.
        """
        if self.hybrid:
            full, windowed = self.row_bytes(windowed=False), self.row_bytes(windowed=True)
            return full + self.ratio * windowed if full else windowed
        target = [layer for layer in self.layers if not layer.draft]
        drafts = sum(layer.draft and not layer.index for layer in self.layers)
        depth = sum(not layer.index for layer in target)
        cell = sum(layer.row_bytes for layer in target) + self.extra_row_bytes
        if not drafts or not depth:
            return cell
        if not self.draft_index:
            return cell + int(cell * drafts / depth)
        index = [layer.row_bytes for layer in target if layer.index]
        return cell + int((cell - sum(index)) * drafts / depth) + drafts * max(index)

    def fit(self, budget_bytes: int) -> PoolSizes:
        """The pools of a budget. Raises DoesNotFitError as SGLang refuses it."""
        if self.request_cap is not None:
            return self._fit_capped(budget_bytes)
        return self.of_tokens(int(budget_bytes // self.cell_bytes))

    def of_tokens(self, tokens: int) -> PoolSizes:
        """The pools of so many tokens, page by page. The windowed one has ``ratio`` of them."""
        full = tokens // self.page_tokens * self.page_tokens
        if not self.hybrid:
            return PoolSizes(full=full)
        if not self.row_bytes(windowed=False):
            return PoolSizes(full=0, windowed=full)
        windowed = self.request_cap if self.request_cap is not None else int(full * self.ratio)
        return PoolSizes(full=full, windowed=windowed // self.page_tokens * self.page_tokens)

    def _fit_capped(self, budget_bytes: int) -> PoolSizes:
        windowed = self.request_cap or 0
        left = budget_bytes - windowed * self.row_bytes(windowed=True)
        full = int(left // self.row_bytes(windowed=False)) // self.page_tokens * self.page_tokens
        if full <= 0:
            raise DoesNotFitError(
                f"SWA pool cap ({windowed} tokens) leaves no room for the full KV pool (SGLang's own words)",
                "lower --max-num-seqs, or give more memory",
            )
        return PoolSizes(full=full, windowed=windowed)

    def need(self, full_tokens: int, windowed_tokens: int, window: int) -> PoolSizes:
        """The smallest pools with these tokens that SGLang starts with.

        The windowed pool is tied to the full one by ``ratio``, or, where requests set it, is no larger than it
        (``pool_configurator.py:1041``). It must hold more than a window and a page (``pool_configurator.py:196``
        ``validate_swa_pool_size``).
        """
        if not self.hybrid:
            return PoolSizes(full=full_tokens)
        if not self.row_bytes(windowed=False):
            return PoolSizes(full=0, windowed=windowed_tokens)
        least = self.least_windowed(windowed_tokens, window)
        if self.request_cap is not None:
            full = max(full_tokens, least)
            return PoolSizes(full=full, windowed=min(self.request_cap, full))
        full = max(full_tokens, round_up(int(least / self.ratio), self.page_tokens))
        while self.of_tokens(full).windowed < least:
            full += self.page_tokens
        return self.of_tokens(full)

    def least_windowed(self, windowed_tokens: int, window: int) -> int:
        """Whole pages of a windowed pool that holds these tokens and that SGLang starts with."""
        return round_up(max(windowed_tokens, window + self.page_tokens + 1), self.page_tokens)

    def reserved_bytes(self) -> int:
        """The dummy page of each pool, and what does not depend on tokens."""
        return self.fixed_bytes + self.page_tokens * (self.row_bytes(windowed=False) + self.row_bytes(windowed=True))


def window_tokens(window: int, page: int, draft_tokens: int) -> int:
    """Windowed tokens that the scheduler holds for a running request (``pool_configurator.py:867``).

    Its window, what waits for eviction, a page of padding and what a step decodes into.
    """
    return window + EVICTION_INTERVAL * max(1, draft_tokens) + page + (2 * draft_tokens or page)


def window_cap(each: int, page: int, running: int, chunk: int) -> int:
    """The windowed pool for ``running`` requests of ``each`` tokens, and two prefill chunks in flight."""
    return round_up(each * running + 2 * chunk + page, page)


def check_longest(capacity_tokens: int, longest_tokens: int) -> None:
    """Raise DoesNotFitError where a request of the longest length finds no room.

    SGLang itself starts all the same, and ends requests where its pool ends (``managers/scheduler.py``
    ``max_req_len``).
    """
    if capacity_tokens < longest_tokens:
        raise DoesNotFitError(
            f"SGLang's pool would have {capacity_tokens:,} tokens: a request of {longest_tokens:,} would be cut short",
            "give more memory, or lower --max-model-len",
        )
