"""FlashAttention's versions, and what each takes (vLLM 0.32.0 ``fa_utils.py`` and ``flash_attn.py``).

Hopper runs version 3 (4 for heads above 256), datacenter Blackwell version 4, everything else version 2.
"""

from __future__ import annotations

from kvplan.engines.vllm.query import Blocks, Query

VERSION_4_MAJORS = (9, 10, 11)
"""Compute capabilities on which version 4 runs."""

HEAD_256_PAGE_TOKENS = 128
"""The dedicated kernel of version 4 for heads of 256 reads pages of 128 tokens."""

HEAD_512_FP8_PAGE_TOKENS = 64
"""Version 4's kernel for heads of 512 with an FP8 cache on Hopper reads pages of 64 tokens."""


def version(query: Query, head_dim: int | None = None, v_head_dim: int | None = None) -> int:
    """The version that runs a head, or that the device prefers where none is named."""
    major = query.device.major
    if query.run_dtype.startswith(("turboquant", "ultraquant")):
        return 2  # engine/arg_utils.py:2718
    chosen = {9: 3, 10: 4}.get(major, 2)
    wide = head_dim is not None and head_dim > 256
    uneven_sinks = query.sinks and None not in (head_dim, v_head_dim) and head_dim != v_head_dim
    if chosen == 3 and (wide or uneven_sinks):
        return 4
    if chosen == 4 and head_dim == 256 and v_head_dim in (None, 256):
        return 2 if _refuses_256(query) else 4
    if chosen == 4 and head_dim is not None and head_dim > 128 and (head_dim, v_head_dim) != (192, 128):
        return 2
    return chosen


def _refuses_256(query: Query) -> bool:
    """What the dedicated kernel for heads of 256 cannot do (``fa_utils.py`` ``_fa4_hd256_fallback_reason``)."""
    return (
        query.sinks
        or query.softcap
        or query.run_dtype not in ("auto", "float16", "bfloat16")
        or query.image_prefix
        or query.dcp > 1
    )


def stores(query: Query, head_dim: int | None = None, v_head_dim: int | None = None) -> bool:
    """Whether the version that runs the layer reads a one-byte cache (``flash_attn_supports_kv_cache_dtype``)."""
    head_dim = query.head_dim if head_dim is None else head_dim
    chosen = version(query, head_dim, v_head_dim)
    if query.device.major == 9:
        return chosen == 3 or (chosen == 4 and head_dim == 512 and query.rules.flash_own_pages)
    return query.device.major == 10 and chosen == 4 and query.rules.flash_own_pages


def refusal(query: Query) -> str | None:
    """Why FlashAttention does not take a layer, besides what its entry declares."""
    if query.head_dim % 8 or query.head_dim > (512 if query.device.major in VERSION_4_MAJORS else 256):
        return "head_size not supported"
    if query.sinks and version(query) not in (3, 4):
        return "attention sinks not supported"
    quantized = query.dtype in ("fp8", "fp8_e4m3")
    if quantized and query.image_prefix and query.device.capability == (9, 0):
        return "SM90 FP8 KV with mm_prefix requires Triton"
    if quantized and not stores(query, query.head_dim, query.head_dim):
        return "FP8 KV cache requires FA3 on SM90, FA4 with head_size=512 on SM90, or FA4 on SM100"
    if query.image_prefix and version(query, query.head_dim) != 4:
        return "partial multimodal token full attention not supported"
    return None


def causal_refusal(query: Query) -> str | None:
    """Why FlashAttention cannot be the causal half of a backend that routes image tokens to Triton."""
    return None if version(query, query.head_dim) in (3, 4) else "causal route requires FA3 or FA4"


def blocks(query: Query) -> Blocks:
    """Kernel block sizes by the whole model's head; a layer of its own is asked with its own head as the model's."""
    head_dim, fp8 = query.model_head_dim, query.run_dtype in ("fp8", "fp8_e4m3")
    if not query.rules.flash_own_pages:
        return Blocks(multiple=16)
    if query.device.major == 9 and fp8 and head_dim == 512 and version(query, head_dim) == 4:
        return Blocks(exact=(HEAD_512_FP8_PAGE_TOKENS,))
    alike = query.device.major in (10, 11) and head_dim == 256 and query.v_head_dim == query.head_dim
    return Blocks(exact=(HEAD_256_PAGE_TOKENS,)) if alike and version(query, 256) == 4 else Blocks(multiple=16)
