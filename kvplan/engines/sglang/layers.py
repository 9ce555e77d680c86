"""SGLang's view of a model: which layers have rows in which pool, how wide a row is, and what a state slot takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kvplan.core.attention import (
    ChunkedLocal,
    CompressedStream,
    CrossAttention,
    FullAttention,
    HeadedKind,
    IndexKeys,
    Latent,
    LayerKind,
    NoCache,
    Shared,
    SlidingWindow,
)
from kvplan.core.engine import EngineRequest, ModelFacts, Stage
from kvplan.core.errors import UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.part import STATE_DTYPE_BYTES
from kvplan.core.recurrent import GatedDeltaNet, KimiDeltaAttention, Mamba1, Mamba2, ShortConv
from kvplan.engines.sglang.families import BUFFERLESS_STATES, NO_CLASS, ONE_PAGE_STATES, SINKS, WINDOW_POOLS

_STATES = (Mamba1, Mamba2, GatedDeltaNet, KimiDeltaAttention, ShortConv)
_ROWS = (FullAttention, SlidingWindow, ChunkedLocal, Latent, CrossAttention)
_CONV_BYTES = 2
"""bf16, whatever the model's dtype (``configs/mamba_utils.py:71``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What SGLang's choices depend on.

    ``latent`` (MLA), ``sparse`` (MLA with an index: DSA), ``compressed`` (DeepSeek-V4), ``recurrent`` (state slots),
    ``attends`` (any layer has rows), ``window_pool`` (windowed layers have their own pool of ``window`` tokens),
    ``asymmetric`` (key and value rows differ in width), ``extra_buffer`` (the prefix cache of states keeps one),
    ``one_page`` (that cache has pages of one token alone),
    ``paged_states`` (it is off, is asked to keep one, or tokens are drafted: states allow pages of several tokens).
    """

    family: str
    latent: bool
    sparse: bool
    compressed: bool
    recurrent: bool
    attends: bool
    delta_net: bool
    window_pool: bool
    window: int
    asymmetric: bool
    extra_buffer: bool
    one_page: bool
    paged_states: bool = False
    architecture_class: str | None = None

    @property
    def sinks(self) -> bool:
        """Learned attention sinks."""
        return self.family in SINKS


def read_traits(stages: tuple[Stage, ...], facts: ModelFacts, no_window_pool: bool = False) -> Traits:
    """The traits of a model's layers. Raises UnsupportedError for what SGLang does not run."""
    kinds = {item.kind for stage in stages for layer in stage for item in layer}
    _check_kinds(kinds, facts)
    windows = [kind for kind in kinds if isinstance(kind, (SlidingWindow, ChunkedLocal, Latent)) and kind.window_tokens]
    full = [kind for kind in kinds if isinstance(kind, FullAttention)]
    latent = any(isinstance(kind, Latent) for kind in kinds)
    compressed = any(isinstance(kind, CompressedStream) for kind in kinds)
    recurrent = any(isinstance(kind, _STATES) for kind in kinds)
    attends = any(isinstance(kind, _ROWS) for kind in kinds)
    pooled = bool(windows) and facts.family in WINDOW_POOLS and not no_window_pool
    if facts.family == "gemma_multimodal":
        pooled = pooled and {kind.head_shape() for kind in windows} != {kind.head_shape() for kind in full}
    return Traits(
        family="gemma4" if pooled and facts.family == "gemma_multimodal" else facts.family,
        latent=latent and not compressed,
        sparse=latent and not compressed and any(isinstance(kind, IndexKeys) for kind in kinds),
        compressed=compressed,
        recurrent=recurrent,
        attends=attends,
        delta_net=any(isinstance(kind, GatedDeltaNet) for kind in kinds),
        window_pool=pooled,
        window=max((kind.window_tokens or 0 for kind in windows), default=0) - WINDOW_POOLS.get(facts.family, 0),
        asymmetric=any(isinstance(kind, HeadedKind) and kind.head_shape()[1] != kind.head_shape()[2] for kind in kinds),
        extra_buffer=recurrent and attends and facts.family not in BUFFERLESS_STATES,
        one_page=facts.family in ONE_PAGE_STATES,
        architecture_class=facts.architecture_class,
    )


def _check_kinds(kinds: set[LayerKind], facts: ModelFacts) -> None:
    for name in (facts.architecture_class, facts.family):
        if name is not None and name in NO_CLASS:
            raise UnsupportedError(f"SGLang 0.5.23 does not run this model as kvplan reads it: {NO_CLASS[name]}")
    known = (*_STATES, *_ROWS, IndexKeys, CompressedStream, Shared, NoCache)
    for kind in kinds:
        if not isinstance(kind, known) and kind.kind != "state_buffer":
            raise UnsupportedError(f"SGLang 0.5.23 has no pool for {kind.kind.replace('_', ' ')} layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLayer:
    """The rows of one layer in a pool, on one rank: ``row_bytes`` per token, ``key_bytes`` of them for keys."""

    item: PlacedKind
    row_bytes: int
    key_bytes: int = 0
    windowed: bool = False
    index: bool = False
    draft: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLayer:
    """A recurrent layer's state in one slot, on one rank, and what a drafted token takes of it."""

    item: PlacedKind
    conv_bytes: int
    ssm_bytes: int
    conv_rows: int = 0
    overlapping: bool = True

    @property
    def slot_bytes(self) -> int:
        """One slot of one layer."""
        return self.conv_bytes + self.ssm_bytes


def repartition(request: EngineRequest) -> tuple[Stage, ...]:
    """The stages as SGLang cuts them: a remainder goes one layer each to the last stages.

    Draft layers stay at the end of the last stage. ``distributed/utils.py:110`` ``get_pp_indices``.
    """
    layers = [layer for stage in request.stages for layer in stage]
    pp, drafts = request.parallel.pp, request.num_draft_layers
    base, rest = divmod(len(layers) - drafts, pp)
    sizes = [base + (rank >= pp - rest) for rank in range(pp)]
    sizes[-1] += drafts
    starts = [sum(sizes[:rank]) for rank in range(pp)]
    return tuple(tuple(layers[start : start + size]) for start, size in zip(starts, sizes))


class StageReader:
    """Reads the layers of a stage for one rank."""

    def __init__(
        self, request: EngineRequest, traits: Traits, *, ssm_dtype: str, fp8_index: bool, scale_copies: int
    ) -> None:
        self.request, self.traits = request, traits
        self.ssm_dtype, self.fp8_index, self.scale_copies = ssm_dtype, fp8_index, scale_copies
        self.layers = [layer for stage in request.stages for layer in stage]
        self.num_target = len(self.layers) - request.num_draft_layers
        self._check_heads()
        self.uniform = self._uniform_row()

    def pools(self, stage: Stage, num_drafts: int) -> list[PoolLayer]:
        """One entry for each layer with rows, the drafts last.

        In a model without state slots a layer that stores nothing has its rows all the same: the pool is as deep as
        the model (``model_runner_components/layer_setup.py:119`` ``num_effective_layers``).
        """
        found = []
        for index, layer in enumerate(stage):
            draft = index >= len(stage) - num_drafts
            for item in _items(layer, self.request):
                entry = self._pool_layer(item, layer, draft)
                if entry is not None:
                    found.append(entry)
        return found

    def states(self, stage: Stage) -> list[StateLayer]:
        """One entry for each recurrent layer."""
        return [
            self._state_layer(item, layer)
            for layer in stage
            for item in _items(layer, self.request)
            if isinstance(item.kind, _STATES)
        ]

    def bare(self, stage: Stage) -> tuple[tuple[PlacedKind, int], ...]:
        """Kinds that have neither rows nor state, with their count."""
        groups = group_kinds(stage, self.request.choice.policy)
        return tuple((item, count) for item, count in groups.items() if self._is_bare(item.kind))

    def _is_bare(self, kind: LayerKind) -> bool:
        return isinstance(kind, (Shared, NoCache)) and (self.traits.recurrent or not self.traits.attends)

    def _pool_layer(self, item: PlacedKind, layer: tuple[PlacedKind, ...], draft: bool) -> PoolLayer | None:
        kind = item.kind
        if isinstance(kind, IndexKeys):
            row = self._index_row(kind, item) * self.request.parallel.dcp
            return PoolLayer(item=item, row_bytes=row, index=True, draft=draft)
        if isinstance(kind, _ROWS):
            key, row = self._rows(item)
            windowed = self.traits.window_pool and isinstance(kind, (SlidingWindow, ChunkedLocal))
            return PoolLayer(item=item, row_bytes=row, key_bytes=key, windowed=windowed, draft=draft)
        if isinstance(kind, (Shared, NoCache)) and not self._is_bare(kind):
            return self._filler(item, layer, draft)
        return None

    def _filler(self, item: PlacedKind, layer: tuple[PlacedKind, ...], draft: bool) -> PoolLayer:
        """Rows that a layer without a cache has: those of the layer that it reads, else those of any layer."""
        sources = [entry.kind.source_layer for entry in layer if isinstance(entry.kind, Shared)]
        source = self.uniform
        if sources and sources[0] is not None:
            source = next((entry for entry in self.layers[sources[0]] if isinstance(entry.kind, _ROWS)), self.uniform)
        key, row = self._rows(source)
        windowed = self.traits.window_pool and isinstance(source.kind, (SlidingWindow, ChunkedLocal))
        return PoolLayer(item=item, row_bytes=row, key_bytes=key, windowed=windowed, draft=draft)

    def _rows(self, item: PlacedKind) -> tuple[int, int]:
        """(bytes of the key row, bytes of the whole row) of one token and layer."""
        parts = [part.shard(self.request.parallel.head_ranks) for part in item.kind.parts()]
        sizes = [int(item.kv_format.of(part).row_bytes(part)) for part in parts]
        if self.scale_copies > 1:  # nvfp4's scales once more, in the layout of the other backend
            sizes = [size + part.num_heads * part.width // 16 for size, part in zip(sizes, parts)]
        return sizes[0], sum(sizes)

    def _index_row(self, kind: IndexKeys, item: PlacedKind) -> int:
        """One index row: FP8 with an fp32 scale per 128 elements for DSA, plain elements for MiniMax-M3.

        ``model_executor/pool_configurator.py:560`` and ``mem_cache/memory_pool.py:5815``.
        """
        if self.traits.latent:
            return kind.head_dim + kind.head_dim // 128 * 4
        return kind.head_dim * (1 if self.fp8_index else STATE_DTYPE_BYTES[item.kv_format.native.name])

    def _uniform_row(self) -> PlacedKind:
        """Any layer with rows; refuses pools that would need several head shapes."""
        target = [item for layer in self.layers[: self.num_target] for item in layer if isinstance(item.kind, _ROWS)]
        if not self.traits.compressed:
            for windowed in (False, True):
                shapes = {item.kind.head_shape() for item in target if self._windowed(item) == windowed}
                if len(shapes) > 1:
                    heads = ", ".join(sorted(f"{shape[0]} x {shape[1]}" for shape in shapes))
                    raise UnsupportedError(
                        f"SGLang's pool has one head shape for all layers; this model has several ({heads})"
                    )
        return target[0] if target else self.layers[0][0]

    def _windowed(self, item: PlacedKind) -> bool:
        return self.traits.window_pool and isinstance(item.kind, (SlidingWindow, ChunkedLocal))

    def _check_heads(self) -> None:
        ranks = self.request.parallel.head_ranks
        for layer in self.layers:
            for item in layer:
                heads = item.kind.head_shape()[0] if isinstance(item.kind, (HeadedKind, CrossAttention)) else None
                if heads and heads % ranks and ranks % heads:
                    raise UnsupportedError(
                        f"SGLang splits {heads} KV heads over no {ranks} ranks",
                        f"take a divisor or a multiple of {heads} for --tp",
                    )

    def _state_layer(self, item: PlacedKind, layer: tuple[PlacedKind, ...]) -> StateLayer:
        tp, kind = self.request.parallel.tp, item.kind
        conv = ssm = 0
        for state in _state_kind(kind, layer).states():
            # groups of keys are repeated where ranks are more than they; all else must divide
            repeated = state.name in ("conv_bc", "conv_qk") and state.num_units % tp
            if state.num_units % tp and not repeated:
                raise UnsupportedError(f"SGLang splits a state of {state.num_units} heads over no {tp} ranks")
            elements = (1 if repeated else state.num_units // tp) * state.unit_elements
            if state.name == "state":
                ssm += elements * self._ssm_bytes(kind)
            else:
                conv += elements * _CONV_BYTES
        if isinstance(kind, GatedDeltaNet) and kind.conv_kernel == 1 and len(layer) > 1:
            conv -= _sibling_conv(layer) // tp * _CONV_BYTES
        rows = _conv_kernel(kind, layer) - 1
        overlapping = not isinstance(kind, KimiDeltaAttention)
        return StateLayer(item=item, conv_bytes=conv, ssm_bytes=ssm, conv_rows=rows, overlapping=overlapping)

    def _ssm_bytes(self, kind: LayerKind) -> int:
        """4 unless asked otherwise; of the configs' own keys SGLang reads ``mamba_ssm_dtype`` (Qwen3-Next and 3.5)."""
        if self.ssm_dtype != "auto":
            return {"float32": 4, "bfloat16": 2, "float16": 2}[self.ssm_dtype]
        return STATE_DTYPE_BYTES[kind.state_dtype] if isinstance(kind, GatedDeltaNet) else 4


def _items(layer: tuple[PlacedKind, ...], request: EngineRequest) -> Iterator[PlacedKind]:
    """The layer's kinds as reports group them, each as often as the layer has it."""
    for item, count in group_kinds([layer], request.choice.policy).items():
        yield from [item] * count


def _state_kind(kind: LayerKind, layer: tuple[PlacedKind, ...]) -> LayerKind:
    """The kind as SGLang allocates it: Jet-Nemotron's convolution spans q, k and v, not v alone."""
    if isinstance(kind, GatedDeltaNet) and kind.conv_kernel == 1 and len(layer) > 1:
        return replace(kind, conv_kernel=_conv_kernel(kind, layer))
    return kind


def _conv_kernel(kind: LayerKind, layer: tuple[PlacedKind, ...]) -> int:
    kernels = [getattr(entry.kind, "conv_kernel", 1) for entry in layer]
    return max(kernels) if isinstance(kind, GatedDeltaNet) else getattr(kind, "conv_kernel", 1)


def _sibling_conv(layer: tuple[PlacedKind, ...]) -> int:
    """Elements of the convolution beside a state, which is counted with its own kind."""
    return sum(state.elements for entry in layer if isinstance(entry.kind, ShortConv) for state in entry.kind.states())
