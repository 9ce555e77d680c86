"""DeepSeek's packed latent rows, in parts: the latent, its rotary key and the index key.

An engine keeps a token's parts in one record; here each is a store of its own, of the same bytes. The figures are those
of vLLM 0.33 (``flashmla_sparse.py``, the note on formats; ``deepseek_v4/common/ops/fused_compress_quant_cache.py``;
``rocm_aiter_mla_sparse.py`` for index keys):

fp8_ds_mla, latent of 512   E4M3, an fp32 scale amax / 448 per 128 elements: 528 bytes
fp8_ds_mla, latent of 448   E4M3, an E8M0 scale 2**ceil(log2(amax / 448)) per 64 and a pad byte: 456 bytes
nvfp4_ds_mla, latent        E2M1, an E4M3 scale amax / 6 per 16, in the order of their blocks: 288 bytes
rope                        16 bits in fp8_ds_mla, E4M3 at scale 1 in nvfp4_ds_mla
index                       E4M3, an fp32 scale 2**ceil(log2(amax / 448)): 132 bytes

Scales that are powers of two take amax as at least 1e-4. NaN counts as 0 and an infinity as its row's largest finite
magnitude; without a scale, an infinity becomes 448, and in 16 bits both stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvplan.core.format import RowFormat
from kvplan.runtime.block_scaled import (
    E4M3_MAX,
    E4M3_SCALE,
    BlockScale,
    BlockScaledRows,
    E2m1Elements,
    E4m3Elements,
    block_scaled,
    covering_exponent,
    e8m0_scale,
)
from kvplan.runtime.codec import CodecFactory
from kvplan.runtime.codecs.float_rows import CastRows, ScaledFp8Rows, StaticFp8Rows

_exponent = covering_exponent(E4M3_MAX, smallest_amax=1e-4)


def _power_of_two(amax: Tensor) -> Tensor:
    """The fp32 scale of an index key."""
    return torch.ldexp(torch.ones_like(amax), _exponent(amax))


_E8M0_TILES = BlockScaledRows(64, E4m3Elements(), e8m0_scale(_exponent), scale_padding=1)
_INDEX_KEYS = BlockScaledRows(128, E4m3Elements(), BlockScale(_power_of_two, lambda scale: scale))


def _fp8_latent(cache_format: RowFormat, width: int) -> ScaledFp8Rows | BlockScaledRows:
    """DeepSeek-V3.2's tiles of 128, or DeepSeek-V4's of 64, whose scales are priced for the whole row."""
    if cache_format.scale_group:
        return ScaledFp8Rows(width, cache_format.scale_group)
    return _E8M0_TILES


CODECS: dict[str, CodecFactory] = {
    "fp8_ds_mla latent": _fp8_latent,
    "fp8_ds_mla rope": lambda cache_format, width: CastRows(torch.bfloat16),
    "fp8_ds_mla index": block_scaled(_INDEX_KEYS),
    "nvfp4_ds_mla latent": block_scaled(BlockScaledRows(16, E2m1Elements(), E4M3_SCALE)),
    "nvfp4_ds_mla rope": lambda cache_format, width: StaticFp8Rows(torch.float8_e4m3fn),
    "nvfp4_ds_mla index": block_scaled(_INDEX_KEYS),
}
