"""The block size: what the backends take together, aligned with states and with layers left in 16 bits.

vLLM 0.32.0 ``platforms/interface.py:700-1126``: ``update_block_size_for_backend`` and what it calls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from kvplan.core.attention import HeadedKind, Latent
from kvplan.core.errors import UnsupportedError
from kvplan.core.recurrent import RecurrentKind, StateBuffer
from kvplan.core.units import cdiv, round_up
from kvplan.engines.vllm.backends import INDEXER, Backend
from kvplan.engines.vllm.query import Blocks, Query
from kvplan.engines.vllm.rules import TURBOQUANT
from kvplan.engines.vllm.run import Run
from kvplan.engines.vllm.specs import (
    Alignment,
    CachedLayer,
    cell_bytes,
    latent_bytes,
    priced,
    rank_kv_heads,
    turboquant_bytes,
)
from kvplan.engines.vllm.states import checkpoint_tokens, keeps_every_state, state_page_bytes

DEFAULT_BLOCK_TOKENS = 16


def align_blocks(layers: Sequence[CachedLayer], run: Run) -> Alignment:
    """The block size that vLLM resolves, and the pages that states and skipped layers are padded to.

    ``layers`` are the distinct ones in the order of the model. Raises UnsupportedError where backends disagree.
    """
    readers = distinct_backends(layers)
    block = run.user_block_tokens or DEFAULT_BLOCK_TOKENS
    if not readers:
        return Alignment(block)
    blocks = [backend.blocks(query) for backend, query in readers]
    if not run.rules.backends_share_block:
        blocks = blocks[:1]
    if run.user_block_tokens is None:
        block = preferred_block_tokens(blocks)
    alignment = Alignment(block)
    if run.traits.hybrid:
        alignment = _align_states(layers, blocks, alignment, run)
    if any(_is_skipped(layer, run) for layer in layers):
        alignment = _align_skipped(readers[0][0], blocks[0], alignment, run)
    if alignment.block_tokens != block and run.rules.backends_share_block:
        _check_accepted(readers, alignment.block_tokens)
    return alignment


def distinct_backends(layers: Iterable[CachedLayer]) -> list[tuple[Backend, Query]]:
    """Every backend that reads attention, once, with a query of the whole model, in the order of the layers."""
    found: dict[str, tuple[Backend, Query]] = {}
    for layer in layers:
        if layer.backend is not None and layer.query is not None:
            found.setdefault(layer.backend.name, (layer.backend, layer.query))
    # a layer builds its indexer before its attention, so the indexer is the first that 0.25 asks
    return sorted(found.values(), key=lambda reader: reader[0] is not INDEXER)


def preferred_block_tokens(blocks: Sequence[Blocks]) -> int:
    """16 where every backend takes it, else the smallest least common multiple that they all take."""
    if all(sizes.accept(DEFAULT_BLOCK_TOKENS) for sizes in blocks):
        return DEFAULT_BLOCK_TOKENS
    candidates = sorted({math.lcm(*bases) for bases in itertools.product(*(sizes.bases for sizes in blocks))})
    for candidate in candidates:
        if all(sizes.accept(candidate) for sizes in blocks):
            return candidate
    raise UnsupportedError("vLLM's attention backends for this model share no block size")


def _is_skipped(layer: CachedLayer, run: Run) -> bool:
    """Whether attention is left in 16 bits while the rest of the cache is compressed (skip layers)."""
    native = layer.dtype == "auto" and run.dtype not in ("auto", "float16", "bfloat16")
    return native and isinstance(layer.kind, HeadedKind)


def _align_states(layers: Sequence[CachedLayer], blocks: Sequence[Blocks], alignment: Alignment, run: Run) -> Alignment:
    """Enlarge the block until a page of attention covers a state, and pad states to that page."""
    recurrent = [layer.kind for layer in layers if isinstance(layer.kind, RecurrentKind)]
    state = max(state_page_bytes(kind, run) for kind in recurrent if not isinstance(kind, StateBuffer))
    per_token = _attention_token_bytes(layers, run)
    granule = max(blocks[0].smallest, alignment.block_tokens)
    if run.traits.latent:
        granule = max(granule, run.rules.latent_hybrid_multiple)
    granule = math.lcm(granule, checkpoint_tokens(recurrent, run))
    if any(keeps_every_state(kind, run) for kind in recurrent):
        chunk = math.lcm(run.quirks.chunk_tokens, granule)
        needed = round_up(cdiv(state, per_token), chunk)
    else:
        needed = granule * cdiv(state, granule * per_token)
        needed = round_up(needed, math.lcm(*(sizes.smallest for sizes in blocks)))
    block = max(alignment.block_tokens, needed)
    if run.rules.aligned_blocks_fit_batch and run.aligned_states and block > run.batched_tokens:
        raise UnsupportedError(
            f"vLLM {run.rules.version} needs blocks of {block} tokens, more than a batch of {run.batched_tokens}",
            "raise --max-num-batched-tokens, or use --no-prefix-caching",
        )
    return alignment._replace(block_tokens=block, state_page_bytes=block * per_token)


def _attention_token_bytes(layers: Sequence[CachedLayer], run: Run) -> int:
    """Bytes of one token of one attention layer, as the first backend packs it."""
    layer = next(layer for layer in layers if isinstance(layer.kind, (HeadedKind, Latent)))
    if isinstance(layer.kind, Latent):
        return latent_bytes(layer.kind, run.dtype)
    skipped = any(_is_skipped(entry, run) for entry in layers)
    head_dim, heads = run.traits.head_dim, rank_kv_heads(run.traits.num_kv_heads, run.tp)
    if run.dtype in TURBOQUANT:
        packed = heads * turboquant_bytes(run.dtype, head_dim, head_dim)
        return math.lcm(packed, heads * 4 * head_dim) if skipped else packed
    backend = next(entry.backend for entry in layers if entry.backend is not None)
    return heads * cell_bytes(priced(backend, run.dtype, run), run.dtype, head_dim, head_dim)


def _align_skipped(backend: Backend, blocks: Blocks, alignment: Alignment, run: Run) -> Alignment:
    """Enlarge the block until a compressed page covers one kernel block of a layer left in 16 bits.

    Both are priced with the model's own heads and as the first backend packs them (``interface.py:826``).
    """
    head_dim, heads = run.traits.head_dim, rank_kv_heads(run.traits.num_kv_heads, run.tp)
    scaled = backend if run.dtype in TURBOQUANT else priced(backend, run.dtype, run)
    packed = heads * cell_bytes(scaled, run.dtype, head_dim, head_dim)
    native = heads * 4 * head_dim
    if packed == native:
        return alignment
    granule = max(blocks.smallest, alignment.block_tokens)
    required = max(native * blocks.smallest, alignment.state_page_bytes or 0)
    block = max(alignment.block_tokens, granule * cdiv(required, granule * packed))
    page = block * packed
    state_page = page if alignment.state_page_bytes else None
    return Alignment(block_tokens=block, state_page_bytes=state_page, skip_page_bytes=page)


def _check_accepted(readers: Sequence[tuple[Backend, Query]], block_tokens: int) -> None:
    rejecting = [backend.name for backend, query in readers if not backend.blocks(query).accept(block_tokens)]
    if rejecting:
        raise UnsupportedError(
            f"vLLM aligns the block size to {block_tokens} tokens, which {', '.join(rejecting)} does not take",
            "choose another --attention-backend or --block-size",
        )
