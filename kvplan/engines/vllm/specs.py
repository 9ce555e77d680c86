"""Each layer's cache spec: how many tokens a block of it holds, the bytes of its page, and with what it may be merged.

vLLM 0.32.0 ``v1/kv_cache_interface.py`` and ``model_executor/layers/attention/attention.py:590``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kvplan.core.attention import (
    ChunkedLocal,
    CompressedStream,
    CrossAttention,
    HeadedKind,
    IndexKeys,
    Latent,
    LayerKind,
    SlidingWindow,
)
from kvplan.core.errors import UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.recurrent import RecurrentKind, StateBuffer
from kvplan.core.units import cdiv, round_up
from kvplan.engines.vllm.backends import (
    COMPRESSED,
    INDEXER,
    SPARSE_FULL,
    Backend,
    choose_backend,
)
from kvplan.engines.vllm.query import Blocks, Query
from kvplan.engines.vllm.rules import PER_TENSOR, TURBOQUANT
from kvplan.engines.vllm.run import Run
from kvplan.engines.vllm.states import checkpoint_blocks, keeps_every_state, state_page_bytes

TURBOQUANT_BITS = {"k8v4": (8, 4), "4bit_nc": (4, 4), "k3v4_nc": (3, 4), "3bit_nc": (3, 3)}
"""Bits of keys and of values (0.32 ``quantization/turboquant/config.py:20``)."""

V4_WINDOW_BLOCK_TOKENS = 64
V4_PAGE_MULTIPLE = 576
"""DeepSeek-V4's sliding latent has blocks of 64 tokens, and all its pages are whole multiples of 576 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """One layer's cache.

    ``form`` is full, sliding, chunked, state or cross; ``cell`` is what must be equal for layers to share a group;
    ``limit_tokens`` the window or chunk; ``held_blocks`` those of a state, and ``every_block`` that it keeps one more
    for each block of tokens; ``latent`` pages cannot be padded. ``split`` is over how many ranks the tokens of a block
    are dealt (decode-context parallelism).
    """

    form: str
    block_tokens: int
    page_bytes: int
    cell: tuple[object, ...]
    limit_tokens: int = 0
    held_blocks: int = 0
    latent: bool = False
    split: int = 1
    every_block: bool = False

    def blocks(self, tokens: int, run: Run) -> int:
        """Blocks that one request of ``tokens`` holds at most (``max_memory_usage_bytes`` of each spec)."""
        if self.form == "state":
            return self.held_blocks + (cdiv(tokens, self.block_tokens) if self.every_block else 0)
        if self.form == "cross":
            return cdiv(run.batched_tokens, self.block_tokens)
        if self.form == "sliding":
            return cdiv(min(self.limit_tokens - 1 + run.in_flight_tokens, tokens), self.block_tokens) + 1
        if self.form == "chunked":
            return cdiv(min(self.limit_tokens + run.in_flight_tokens, tokens), self.block_tokens)
        return cdiv(cdiv(tokens, self.split), self.block_tokens)


class CachedLayer(NamedTuple):
    """A kind with the cache dtype that it is stored in and the backend that reads it (None for states)."""

    kind: LayerKind
    dtype: str
    query: Query | None
    backend: Backend | None


class Alignment(NamedTuple):
    """What the block size was resolved to, and the pages that states and skipped layers are padded to."""

    block_tokens: int
    state_page_bytes: int | None = None
    skip_page_bytes: int | None = None


def cached_layer(kind: LayerKind, dtype: str, indexed: bool, run: Run) -> CachedLayer:
    """The kind with its backend; ``indexed`` layers have an indexer. Raises UnsupportedError where vLLM has none."""
    if isinstance(kind, RecurrentKind) or not kind.parts():
        return CachedLayer(kind, dtype, None, None)
    if isinstance(kind, HeadedKind) and ignores_dtype(kind, run):
        dtype = "auto"
    if indexed and run.quirks.sparse_full_attention:
        return _sparse_full_layer(kind, run)
    query = _query(kind, dtype, run)
    return CachedLayer(kind, dtype, query, _backend(kind, query, run))


def ignores_dtype(kind: HeadedKind, run: Run) -> bool:
    """Whether attention is built without the cache's dtype: multi-query Falcon, and MiMo-V2 before 0.26."""
    if run.quirks.single_head_uncached_dtype:
        return kind.num_kv_heads == 1
    return run.quirks.uneven_heads and not run.rules.mimo_cache_dtype


def _sparse_full_layer(kind: LayerKind, run: Run) -> CachedLayer:
    """MiniMax-M3's own kernels: they take the run's dtype in every layer, and NVFP4 on Blackwell alone."""
    if run.dtype.startswith("nvfp4") and (run.device.major != 10 or run.dtype != "nvfp4"):
        raise UnsupportedError("vLLM's MiniMax-M3 has an nvfp4 cache on compute capability 10.x alone", "use fp8")
    return CachedLayer(kind, run.dtype, _query(kind, run.dtype, run), SPARSE_FULL)


def _backend(kind: LayerKind, query: Query, run: Run) -> Backend:
    if run.traits.compressed:
        return COMPRESSED
    if isinstance(kind, IndexKeys):
        return INDEXER
    if isinstance(kind, ChunkedLocal) and query.dtype in TURBOQUANT:
        raise UnsupportedError("vLLM has no TurboQuant for chunked attention", "use --kv-dtype fp8")
    return choose_backend(query)


def _query(kind: LayerKind, dtype: str, run: Run) -> Query:
    head_dim, v_head_dim = _head_dims(kind)
    return Query(
        rules=run.rules,
        device=run.device,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        dtype=dtype,
        run_dtype=run.dtype,
        model_head_dim=run.traits.head_dim,
        model_kv_heads=run.traits.num_kv_heads,
        rank_heads=run.rank_heads,
        tp=run.tp,
        dcp=run.parallel.dcp,
        latent=isinstance(kind, (Latent, CompressedStream)),
        sparse=run.traits.sparse and isinstance(kind, Latent),
        sinks=run.quirks.sinks,
        window=isinstance(kind, SlidingWindow),
        image_prefix=run.traits.image_prefix,
        cross=isinstance(kind, CrossAttention),
        softcap=run.traits.softcap,
        user_block_tokens=run.user_block_tokens,
        user_backend=run.user_backend,
    )


def _head_dims(kind: LayerKind) -> tuple[int, int]:
    if isinstance(kind, Latent):
        return kind.kv_lora_rank + kind.qk_rope_head_dim, 0
    _, head_dim, v_head_dim = kind.head_shape()
    return head_dim or 0, v_head_dim or head_dim or 0


def rank_kv_heads(num_kv_heads: int, tp: int) -> int:
    """KV heads of one rank: at least one (0.32 ``config/model.py:1650``)."""
    return max(1, num_kv_heads // tp)


def cell_bytes(backend: Backend, dtype: str, key: int, value: int) -> int:
    """Bytes of one token in one KV head, scales included (``customize_spec`` of each backend).

    A dtype that the backend does not pack takes one byte per element.
    """
    if dtype in ("auto", "float16", "bfloat16"):
        return 2 * (key + value)
    if dtype in PER_TENSOR or dtype not in backend.packs:
        return key + value
    if dtype.endswith("per_token_head"):
        divisor = 2 if dtype.startswith("int4") else 1
        return key // divisor + value // divisor + 8
    if dtype.startswith("nvfp4"):
        return sum(width // 2 + width // 16 for width in (key, value))
    if dtype.startswith("turboquant"):
        return turboquant_bytes(dtype, key, value)
    return sum(width // 2 + width // 32 for width in (key, value))  # ultraquant_4bit


def layer_cell_bytes(kind: LayerKind, backend: Backend, query: Query, run: Run) -> int:
    """The same for a layer of a release: its spec may price scales that its backend does not store."""
    dtype, halved = query.dtype, run.rules.packs_sliding_int4 or not isinstance(kind, SlidingWindow)
    if dtype == "int4_per_token_head" and not halved:
        dtype = "int8_per_token_head"
    return cell_bytes(priced(backend, dtype, run), dtype, query.head_dim, query.v_head_dim)


def priced(backend: Backend, dtype: str, run: Run) -> Backend:
    """The backend as pages are priced: it packs every dtype where the specs do that themselves."""
    return replace(backend, packs=(dtype,)) if run.rules.specs_pack else backend


def turboquant_bytes(dtype: str, key: int, value: int) -> int:
    """Keys of 8 bits stand alone, others carry a norm of 2 bytes; values carry 4 bytes; the sum is made even."""
    key_bits, value_bits = TURBOQUANT_BITS[dtype.removeprefix("turboquant_")]
    keys = key if key_bits == 8 else cdiv(key * key_bits, 8) + 2
    return round_up(keys + cdiv(value * value_bits, 8) + 4, 2)


def latent_bytes(kind: Latent, dtype: str) -> int:
    """Bytes of one latent row with its rotary key (``mla_attention.py:1350``, ``deepseek_v4/attention.py``)."""
    rank, rope = kind.kv_lora_rank, kind.qk_rope_head_dim
    if dtype == "fp8_ds_mla":
        return rank + (8 if kind.window else 4 * (rank // 128)) + 2 * rope
    if dtype == "nvfp4_ds_mla":
        return rank // 2 + rank // 16 + rope
    return (rank + rope) * (2 if dtype in ("auto", "float16", "bfloat16") else 1)


def layer_spec(layer: CachedLayer, alignment: Alignment, run: Run) -> LayerSpec | None:
    """The spec of a cached layer; None where it keeps nothing."""
    kind = layer.kind
    if isinstance(kind, StateBuffer):
        return _compressor_spec(kind)
    if isinstance(kind, RecurrentKind):
        return _state_spec(kind, alignment, run)
    if layer.backend is None or layer.query is None:
        return None
    if isinstance(kind, (Latent, IndexKeys, CompressedStream)):
        return _latent_spec(kind, layer.dtype, alignment.block_tokens, run)
    return _headed_spec(kind, layer.backend, layer.query, alignment, run)


def _headed_spec(kind: LayerKind, backend: Backend, query: Query, alignment: Alignment, run: Run) -> LayerSpec:
    heads = rank_kv_heads(kind.head_shape()[0] or 1, run.tp)
    per_token = heads * layer_cell_bytes(kind, backend, query, run)
    cell = ("headed", heads, query.head_dim, query.v_head_dim, query.dtype)
    form, block, page, limit = "full", alignment.block_tokens, 0, 0
    if isinstance(kind, SlidingWindow):
        form, limit = "sliding", kind.window + run.quirks.extra_window_tokens * run.rules.counts_own_token
        budget = alignment.skip_page_bytes or per_token * block
        blocks = backend.blocks(query.own)
        if not run.rules.windows_take_large_blocks:
            budget = alignment.skip_page_bytes or 0
            blocks = Blocks(exact=blocks.exact or (blocks.multiple,))
        block = blocks.largest_within(budget // per_token)
        page = alignment.skip_page_bytes or 0
        if page and page < block * per_token:
            raise UnsupportedError("vLLM cannot fit a sliding layer into the page of the compressed layers")
    elif isinstance(kind, ChunkedLocal):
        form, limit = "chunked", kind.chunk_size
    elif isinstance(kind, CrossAttention):
        form = "cross"
    return LayerSpec(
        form=form,
        block_tokens=block,
        page_bytes=page or block * per_token,
        cell=cell,
        limit_tokens=limit,
        split=run.parallel.dcp if form == "full" else 1,
    )


def _latent_spec(kind: Latent | IndexKeys | CompressedStream, dtype: str, block_tokens: int, run: Run) -> LayerSpec:
    if isinstance(kind, Latent) and kind.window:
        page = round_up(V4_WINDOW_BLOCK_TOKENS * latent_bytes(kind, "fp8_ds_mla"), V4_PAGE_MULTIPLE)
        return LayerSpec(
            form="sliding",
            block_tokens=V4_WINDOW_BLOCK_TOKENS,
            page_bytes=page,
            cell=("window latent", kind.window),
            limit_tokens=kind.window,
            latent=True,
        )
    multiple, tokens_per_row, row = 1, 1, 0
    if isinstance(kind, Latent):
        row = latent_bytes(kind, dtype)
    elif isinstance(kind, CompressedStream):
        nope = kind.head_dim - kind.rope_head_dim
        row, tokens_per_row, multiple = nope + 8 + 2 * kind.rope_head_dim, kind.tokens_per_row, V4_PAGE_MULTIPLE
    elif run.quirks.sparse_full_attention:
        row = 2 * kind.num_heads * kind.head_dim  # indexer.py:145: 16 bits whatever the cache dtype
    else:
        row, tokens_per_row = kind.head_dim + 4 * cdiv(kind.head_dim, 128), kind.tokens_per_row
        multiple = V4_PAGE_MULTIPLE if tokens_per_row > 1 else 1
    rows = block_tokens // tokens_per_row
    if not rows:
        raise UnsupportedError(
            f"vLLM's blocks of {block_tokens} tokens hold no row of {tokens_per_row} tokens", "leave --block-size out"
        )
    return LayerSpec(
        form="full",
        block_tokens=block_tokens,
        page_bytes=round_up(rows * row, multiple),
        cell=(kind.kind, row, tokens_per_row),
        latent=True,
        split=run.parallel.dcp,
    )


def _compressor_spec(kind: StateBuffer) -> LayerSpec:
    """DeepSeek-V4's compressor state (``deepseek_v4/compressor.py``): fp32 rows kept like a sliding window."""
    block = 4 if kind.rows <= 8 else 8
    return LayerSpec(
        form="sliding",
        block_tokens=block,
        page_bytes=round_up(block * kind.width * 4, V4_PAGE_MULTIPLE),
        cell=("compressor", kind.rows, kind.width),
        limit_tokens=kind.rows,
        latent=True,
    )


def _state_spec(kind: RecurrentKind, alignment: Alignment, run: Run) -> LayerSpec:
    own = state_page_bytes(kind, run)
    every = keeps_every_state(kind, run)
    held = run.num_speculative_tokens + (0 if every else 1)
    if run.aligned_states and not every:
        held += 1 + checkpoint_blocks(kind, run)
    return LayerSpec(
        form="state",
        block_tokens=alignment.block_tokens if run.aligned_states else run.max_model_len,
        page_bytes=alignment.state_page_bytes or own,
        cell=("state", kind, own),
        held_blocks=held,
        every_block=every,
    )
