"""How many bytes llama.cpp 0.5.0 allocates: cells of its caches, and the tensors that one layer has in them.

``size`` in its log is the sum of these tensors (``src/llama-kv-cache.cpp``, ``src/llama-memory-recurrent.cpp``,
``src/llama-kv-cache-dsv4.cpp``). Cells are what it calls the rows of a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kvplan.core.attention import HeadedKind
from kvplan.core.engine import Stage
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind
from kvplan.core.part import Part, StateTensor
from kvplan.core.recurrent import StateBuffer
from kvplan.core.units import cdiv, round_up

CELL_MULTIPLE = 256
"""``GGML_PAD(n_ctx, 256)`` in ``src/llama-context.cpp``; window caches likewise (``llama-kv-cache-iswa.cpp``)."""

BATCH_TOKENS = 2048
"""``n_batch``, which caps ``n_ubatch`` (``llama_context_default_params``)."""

MAX_SEQUENCES = 256
"""``LLAMA_MAX_SEQ`` in ``src/llama-cparams.h``."""

FULL, WINDOW, INDEX, RECURRENT, COMPRESSOR = "full", "window", "index", "recurrent", "compressor"
"""The caches a tensor can lie in. A compressed stream's is named by its ratio (``compressed 4``), a compressor's by the
rows and columns of its values (as many scores go with them)."""

_STATE_BYTES = 4  # R, S and compressor states are f32, whatever the model (llama_model::create_memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """A context: ``sequences`` (``n_seq_max``) that share ``context_tokens`` (``n_ctx`` as asked for)."""

    sequences: int
    context_tokens: int
    unified: bool
    swa_full: bool
    ubatch: int

    @property
    def cells(self) -> int:
        """Cells of one stream: ``n_ctx`` where unified, else ``n_ctx / n_seq_max``; a multiple of 256."""
        padded = round_up(self.context_tokens, CELL_MULTIPLE)
        return padded if self.unified else round_up(padded // self.sequences, CELL_MULTIPLE)

    @property
    def streams(self) -> int:
        """Separate copies of the cells."""
        return 1 if self.unified else self.sequences

    @property
    def ubatch_tokens(self) -> int:
        """``n_ubatch``, capped by ``n_batch``, which is capped by the context."""
        return min(self.ubatch, BATCH_TOKENS, self.context_tokens)

    def window_cells(self, window: int, streams: int) -> int:
        """Cells of one stream of a sliding-window cache: the window of every sequence in it, and one micro-batch."""
        if self.swa_full:
            return self.cells
        windows = window * (self.sequences // streams)
        return round_up(min(self.cells, windows + self.ubatch_tokens), CELL_MULTIPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the whole model decides for each of its layers.

    ``padded_value_width``  width of every layer's V without flash attention (the widest layer's), else None
    ``index_value_width``   width of the unused V beside index keys (MiniMax-M3's indexer is a plain cache), else None
    ``own_streams``         each sequence has its own stream even when unified (DeepSeek-V4)
    ``states``              states kept for each sequence: 1, and one more for each drafted token where rolled back
    """

    windows_ignored: bool = False
    padded_value_width: int | None = None
    index_value_width: int | None = None
    own_streams: bool = False
    states: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of one layer: ``side`` is K, V, R (convolutions, token shifts) or S (recurrent state)."""

    cache: str
    side: str
    cells: int
    streams: int
    cell_tokens: int
    size_bytes: int
    format_name: str


def layer_tensors(item: PlacedKind, rules: Rules, slots: Slots) -> tuple[Tensor, ...]:
    """Everything that llama.cpp allocates for one kind of one layer, all sequences."""
    parts = [tensor for part in item.kind.parts() for tensor in _part_tensors(part, item, rules, slots)]
    kind = item.kind
    cache = f"{COMPRESSOR} {kind.rows} x {kind.width // 2}" if isinstance(kind, StateBuffer) else RECURRENT
    return (*parts, *(_state_tensor(state, cache, rules, slots) for state in kind.states()))


def value_width(item: PlacedKind) -> int:
    """Elements of the values of one token, all heads; 0 without values (``n_embd_v_gqa``)."""
    return sum(part.num_heads * part.width for part in item.kind.parts() if part.name == "value" and not part.encoder)


def index_value_width(stages: tuple[Stage, ...]) -> int | None:
    """The V head beside index keys, where they index plain keys and values (``llama-kv-cache-msa.cpp``)."""
    for layer in (layer for stage in stages for layer in stage):
        headed = [item.kind for item in layer if isinstance(item.kind, HeadedKind)]
        if headed and any(item.kind.kind == "index_keys" for item in layer):
            return headed[0].v_head_dim or headed[0].head_dim
    return None


def _part_tensors(part: Part, item: PlacedKind, rules: Rules, slots: Slots) -> Iterator[Tensor]:
    if part.encoder:
        return  # cross-attention reads the encoder's output anew: it has no cache (src/models/t5.cpp)
    if part.name == "value" and rules.padded_value_width is not None:
        part = replace(part, num_heads=1, width=rules.padded_value_width)
    streams = slots.sequences if rules.own_streams else slots.streams
    cache, cells = _cache_of(part, rules, slots, streams)
    side = "V" if part.name == "value" else "K"
    yield _tensor(part, side, item, cache, cells, streams)
    if part.name == "index" and rules.index_value_width is not None:
        unused = replace(part, name="value", num_heads=1, width=rules.index_value_width)
        yield _tensor(unused, "V", item, cache, cells, streams)


def _cache_of(part: Part, rules: Rules, slots: Slots, streams: int) -> tuple[str, int]:
    """The cache that holds a part, and the cells of one of its streams."""
    ratio = part.tokens_per_row
    index = part.name == "index"
    if ratio > 1:
        cells = round_up(cdiv(slots.cells, ratio), CELL_MULTIPLE)
        return f"{INDEX if index else 'compressed'} {ratio}", cells
    if index:
        return INDEX, slots.cells
    if part.limit_tokens is None or rules.windows_ignored:
        return FULL, slots.cells
    return WINDOW, slots.window_cells(part.limit_tokens, streams)


def _tensor(part: Part, side: str, item: PlacedKind, cache: str, cells: int, streams: int) -> Tensor:
    cache_format = item.kv_format.of(part)
    return Tensor(
        cache=cache,
        side=side,
        cells=cells,
        streams=streams,
        cell_tokens=part.tokens_per_row,
        size_bytes=cache_format.stored_bytes(part, cells * streams),
        format_name=cache_format.name,
    )


def _state_tensor(state: StateTensor, cache: str, rules: Rules, slots: Slots) -> Tensor:
    return Tensor(
        cache=cache,
        side="S" if state.name in ("state", "buffer") else "R",
        cells=slots.sequences * rules.states,
        streams=1,
        cell_tokens=0,
        size_bytes=slots.sequences * rules.states * state.elements * _STATE_BYTES,
        format_name="fp32",
    )
