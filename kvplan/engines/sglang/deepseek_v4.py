"""DeepSeek-V4's pools: a paged window, two compressed streams, an index, and compressor states.

``model_executor/pool_configurator.py:1046-1700`` ``DSV4PoolConfigurator`` sizes them in floating point, which is
repeated here; ``mem_cache/deepseek_v4_memory_pool.py`` and ``deepseek_v4_compress_state.py`` allocate them. The
layouts are those of FlashMLA: 584 bytes a row, pages padded to a multiple of 576 bytes.
"""

from __future__ import annotations

from collections import Counter

from kvplan.core.attention import CompressedStream, IndexKeys, Latent
from kvplan.core.engine import EngineRequest, GroupAllocation, RankAllocation, Stage
from kvplan.core.errors import DoesNotFitError, UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.recurrent import StateBuffer
from kvplan.core.units import cdiv, round_up

PAGE = 256
RATIO = 0.1
RUNNING = 256
"""Default ``--max-running-requests`` (``arg_groups/deepseek_v4_hook.py:138``)."""

_PAGE_MULTIPLE = 576
_FLOAT_BYTES = 4
_RINGS = {4: 8, 128: 128}
_DRAFT_RINGS = {4: 16, 128: 256}
"""Rows of a compressor's ring, without and with drafts (``deepseek_v4_memory_pool.py:60``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedSizes:
    """Tokens of the full space and of the window pool, and request slots."""

    full: int
    windowed: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedPools:
    """The pools of one stage: ``window_layers`` in all, ``streams`` of them at each ratio."""

    row_bytes: int
    head_dim: int
    index_dim: int
    window: int
    window_layers: int
    streams: dict[int, int]
    ratio: float
    drafted: bool

    @property
    def rings(self) -> dict[int, int]:
        """Rows of a compressor's ring at each ratio."""
        return _DRAFT_RINGS if self.drafted else _RINGS

    @property
    def index_row(self) -> int:
        """Bytes of an index row: FP8 and an fp32 scale per 128."""
        return self.index_dim + self.index_dim // 128 * 4

    def page_bytes(self, rows: int) -> int:
        """A physical page of ``rows`` rows."""
        return round_up(rows * self.row_bytes, _PAGE_MULTIPLE)

    @property
    def window_token_bytes(self) -> float:
        """One token of the window pool: its row in every layer, and the ratio-4 states that follow its page."""
        state = 2 * 2 * (self.head_dim + self.index_dim) * _FLOAT_BYTES
        ring = self.rings[4] / PAGE if self.streams.get(4) else 0.0
        return self._inflate(self.page_bytes(PAGE) / PAGE * self.window_layers + ring * state * self.streams.get(4, 0))

    @property
    def token_bytes(self) -> float:
        """One token of the full space: its share of the window pool, streams and index."""
        sparse = 1 / 4 * (self.page_bytes(PAGE // 4) / (PAGE // 4)) + 1 / 4 * self.index_row
        heavy = 1 / 128 * (self.page_bytes(PAGE // 128) / (PAGE // 128))
        streams = sum(count * (sparse if ratio == 4 else heavy) for ratio, count in self.streams.items())
        plain = self.ratio * (self.window_token_bytes / self._inflate(1)) + streams
        return self._inflate(plain)

    def _inflate(self, value: float) -> float:
        """A draft is priced as one more layer."""
        return value * ((self.window_layers + 1) / self.window_layers) if self.drafted else value

    def state_rows(self, running: int) -> int:
        """Rows of one ratio-128 compressor: a ring for every request slot."""
        ring = self.rings[128]
        return round_up((running + 1) * ring + ring + 1, 128)

    def fixed_bytes(self, running: int) -> int:
        """Ratio-128 states, which belong to requests."""
        return self.state_rows(running) * 2 * self.head_dim * _FLOAT_BYTES * self.streams.get(128, 0)

    def fit(self, budget_bytes: int, running: int) -> CompressedSizes:
        """The pools of a budget. Raises DoesNotFitError as SGLang refuses it."""
        left = max(budget_bytes - self.fixed_bytes(running), 0)
        sizes = self.of_tokens(int(left / self.token_bytes), running)
        if sizes.windowed <= self.window + PAGE:
            raise DoesNotFitError(
                f"SWA pool ({sizes.windowed} tokens) cannot hold even one request: the prefill admission floor is "
                f"{self.window + PAGE} (SGLang's own words)",
                "give more memory, or lower --max-num-seqs",
            )
        return sizes

    def of_tokens(self, tokens: int, running: int) -> CompressedSizes:
        """The pools of so many tokens, page by page."""
        full = tokens // PAGE * PAGE
        return CompressedSizes(full=full, windowed=int(full * self.ratio) // PAGE * PAGE, running=running)

    def need(self, full_tokens: int, windowed_tokens: int, running: int) -> CompressedSizes:
        """The smallest pools with these tokens that SGLang starts with."""
        least = round_up(max(windowed_tokens, self.window + PAGE + 1), PAGE)
        full = max(full_tokens, round_up(int(least / self.ratio), PAGE))
        while self.of_tokens(full, running).windowed < least:
            full += PAGE
        return self.of_tokens(full, running)

    def allocated(self, item: PlacedKind, stage_layer: tuple[PlacedKind, ...], sizes: CompressedSizes) -> int:
        """What one layer allocates for a kind, the reserved page included."""
        kind = item.kind
        if isinstance(kind, Latent):
            return cdiv(sizes.windowed + PAGE, PAGE) * self.page_bytes(PAGE)
        if isinstance(kind, CompressedStream):
            rows = PAGE // kind.tokens_per_row
            return cdiv(sizes.full // kind.tokens_per_row + PAGE, rows) * self.page_bytes(rows)
        if isinstance(kind, IndexKeys):
            rows = PAGE // 4
            return cdiv(sizes.full // 128 * 32 + PAGE, rows) * rows * self.index_row
        if isinstance(kind, StateBuffer):
            heavy = any(
                isinstance(entry.kind, CompressedStream) and entry.kind.tokens_per_row == 128 for entry in stage_layer
            )
            ring = self.rings[4]
            rows = self.state_rows(sizes.running) if heavy else round_up(sizes.windowed // PAGE * ring + ring + 1, 4)
            return rows * kind.width * _FLOAT_BYTES
        raise UnsupportedError(f"SGLang's DeepSeek-V4 pools have no {kind.kind.replace('_', ' ')}")


def read_pools(request: EngineRequest, stage: Stage, ratio: float) -> CompressedPools:
    """The pools of a stage's own layers (drafts keep a window alone)."""
    target = [layer for layer in stage if not _is_draft(layer, stage, request)]
    kinds = [item.kind for layer in target for item in layer]
    latent = next(kind for kind in kinds if isinstance(kind, Latent))
    streams = Counter(kind.tokens_per_row for kind in kinds if isinstance(kind, CompressedStream))
    if set(streams) - {4, 128}:
        raise UnsupportedError(f"SGLang's DeepSeek-V4 pools have no ratio {min(set(streams) - {4, 128})}")
    item = next(item for layer in target for item in layer if isinstance(item.kind, Latent))
    return CompressedPools(
        row_bytes=sum(int(item.kv_format.of(part).row_bytes(part)) for part in latent.parts()),
        head_dim=latent.kv_lora_rank + latent.qk_rope_head_dim,
        index_dim=max((kind.head_dim for kind in kinds if isinstance(kind, IndexKeys)), default=128),
        window=latent.window or 0,
        window_layers=len(target),
        streams=dict(streams),
        ratio=ratio,
        drafted=bool(request.num_draft_layers or request.settings.num_speculative_tokens),
    )


def _is_draft(layer: tuple[PlacedKind, ...], stage: Stage, request: EngineRequest) -> bool:
    drafts = request.num_draft_layers
    return bool(drafts) and any(layer is entry for entry in stage[len(stage) - drafts :])


def allocate_rank(
    request: EngineRequest, stage: Stage, pools: CompressedPools, sizes: CompressedSizes
) -> RankAllocation:
    """What one rank allocates for these sizes."""
    totals: Counter[tuple[PlacedKind, int]] = Counter()
    for layer in stage:
        for item, count in group_kinds([layer], request.choice.policy).items():
            totals[item, pools.allocated(item, layer, sizes)] += count
    groups = tuple(
        GroupAllocation(item=item, count=count, allocated_tokens=_tokens(item, sizes, request), allocated_bytes=once)
        for (item, once), count in totals.items()
    )
    allocated = sum(group.count * group.allocated_bytes for group in groups)
    return RankAllocation(
        groups=groups,
        allocated_bytes=allocated,
        sequence_bytes=allocated // request.sequences,
        bytes_per_block=round(PAGE * pools.token_bytes),
        blocks_per_sequence=cdiv(request.context_tokens, PAGE),
    )


def _tokens(item: PlacedKind, sizes: CompressedSizes, request: EngineRequest) -> int:
    if isinstance(item.kind, StateBuffer):
        return 0
    return (sizes.windowed if item.kind.window_tokens else sizes.full) // request.sequences
