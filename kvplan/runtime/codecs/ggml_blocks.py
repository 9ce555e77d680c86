"""llama.cpp's cache types: blocks of 32 elements, byte for byte as ggml lays them out.

Quantized as ggml's reference functions do (llama.cpp b10256 ``ggml-quants.c``, ``quantize_row_*_ref``; its SIMD
versions of q8_0 round halfway cases otherwise). Layouts are those of ``ggml-common.h``, d and m in fp16:

q8_0    d, 32 int8            x = d q
q4_0    d, 16 bytes           x = d (q - 8)
q4_1    d, m, 16 bytes        x = d q + m
q5_0    d, 4 bytes, 16 bytes  x = d (q - 16)
q5_1    d, m, 4 bytes, 16     x = d q + m
iq4_nl  d, 16 bytes           x = d table[q]

16 bytes hold the low four bits of elements 0-15 in their low nibbles and of 16-31 in their high ones; 4 bytes hold the
fifth bits, lowest element first. Where ggml gives infinity or NaN, results are defined: NaN counts as 0, an infinity as
its row's largest finite magnitude, d and m saturate at 65504, and magnitudes below 1e-37 are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial, reduce

import torch
from torch import Tensor

from kvplan.core.format import RowFormat
from kvplan.core.part import Part
from kvplan.runtime.arithmetic import cast, divide
from kvplan.runtime.codec import CodecFactory, Rows
from kvplan.runtime.finite import finite
from kvplan.runtime.packing import pack, unpack

_BLOCK = 32
_HALF = 2
"""Bytes of an fp16."""
_LARGEST_INPUT = 2.0**126
"""Keeps a block's range finite in float32."""

_IQ4_NL_TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_IQ4_NL_EPSILON = 1e-15
"""GROUP_MAX_EPS: a block of smaller magnitudes is zeros."""


@dataclass(frozen=True)
class GgmlRows:
    """``blocks``: the bytes of a row, uint8 [batch, heads, tokens, width / 32 x bytes of a block]."""

    block_bytes: int
    quantize: Callable[[Tensor], Tensor]
    dequantize: Callable[[Tensor], Tensor]

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``blocks`` as ggml lays out a row."""
        values = finite(rows).clamp(-_LARGEST_INPUT, _LARGEST_INPUT)
        return {"blocks": self.quantize(values.unflatten(-1, (-1, _BLOCK))).flatten(-2)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """What ggml's ``dequantize_row_*`` give, in float32 before the cast."""
        return cast(self.dequantize(stored["blocks"].unflatten(-1, (-1, self.block_bytes))).flatten(-2), dtype)


def _quantize_q8_0(blocks: Tensor) -> Tensor:
    scale = divide(blocks.abs().amax(dim=-1, keepdim=True), 127)
    codes = _round_away(blocks * _inverse(scale)).to(torch.int8)
    return torch.cat([_half_bytes(scale), codes.view(torch.uint8)], dim=-1)


def _dequantize_q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks[..., :_HALF]) * blocks[..., _HALF:].view(torch.int8).float()


def _quantize_signed(blocks: Tensor, bits: int) -> Tensor:
    """q4_0 and q5_0: the element of largest magnitude becomes code 0, so its sign is that of -d."""
    half = 1 << (bits - 1)
    scale = _peak(blocks) / -half
    codes = (blocks * _inverse(scale) + (half + 0.5)).clamp(0, 2 * half - 1)
    return torch.cat([_half_bytes(scale), _pack(codes.to(torch.uint8), bits)], dim=-1)


def _dequantize_signed(blocks: Tensor, bits: int) -> Tensor:
    codes = _unpack(blocks[..., _HALF:], bits).float()
    return _half(blocks[..., :_HALF]) * (codes - (1 << (bits - 1)))


def _quantize_offset(blocks: Tensor, bits: int) -> Tensor:
    """q4_1 and q5_1: codes count from the block's minimum."""
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    largest = (1 << bits) - 1
    scale = divide(high - low, largest)
    codes = ((blocks - low) * _inverse(scale) + 0.5).clamp(0, largest)
    return torch.cat([_half_bytes(scale), _half_bytes(low), _pack(codes.to(torch.uint8), bits)], dim=-1)


def _dequantize_offset(blocks: Tensor, bits: int) -> Tensor:
    codes = _unpack(blocks[..., 2 * _HALF :], bits).float()
    return _half(blocks[..., :_HALF]) * codes + _half(blocks[..., _HALF : 2 * _HALF])


def _quantize_iq4_nl(blocks: Tensor) -> Tensor:
    """Codes for the scale that takes the peak to -127, then the scale of least error, weighted by x**2, for them."""
    inverse = torch.where(
        blocks.abs().amax(dim=-1, keepdim=True) < _IQ4_NL_EPSILON, 0.0, _inverse(_peak(blocks) / -127)
    )
    codes = torch.bucketize((blocks * inverse).contiguous(), _table_middles(blocks.device), right=True, out_int32=True)
    values = _table(blocks.device)[codes]
    weighted = blocks * blocks * values
    scale = _sum_in_order(weighted * blocks) / _sum_in_order(weighted * values)
    scale = torch.where(inverse != 0, scale.nan_to_num(nan=0.0), 0.0)
    return torch.cat([_half_bytes(scale), pack(codes, 4)], dim=-1)


def _dequantize_iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks[..., :_HALF]) * _table(blocks.device)[unpack(blocks[..., _HALF:], 4, _BLOCK).int()]


def _peak(blocks: Tensor) -> Tensor:
    """The first element of largest magnitude, with its sign; of a block of zeros +0, as in ggml."""
    return blocks.gather(-1, blocks.abs().argmax(dim=-1, keepdim=True)) + 0.0


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where that is no number."""
    inverse = scale.reciprocal()
    return torch.where(inverse.isfinite(), inverse, 0.0)


def _round_away(values: Tensor) -> Tensor:
    """C's ``roundf``: to the nearest, halves away from zero."""
    whole = values.trunc()
    return whole + (2 * (values - whole)).trunc()


def _sum_in_order(values: Tensor) -> Tensor:
    """The float32 sum over a block, first element first, as a C loop forms it; torch sums in another order."""
    return reduce(torch.add, values.split(1, dim=-1))


def _half_bytes(values: Tensor) -> Tensor:
    """The two bytes of each fp16, low byte first."""
    return cast(values, torch.float16).view(torch.uint8)


def _half(stored: Tensor) -> Tensor:
    return stored.contiguous().view(torch.float16).float()


def _pack(codes: Tensor, bits: int) -> Tensor:
    nibbles = pack(codes & 0xF, 4)
    if bits == 4:
        return nibbles
    fifth = (codes >> 4).unflatten(-1, (-1, 8)) << torch.arange(8, dtype=torch.uint8, device=codes.device)
    return torch.cat([fifth.sum(dim=-1, dtype=torch.uint8), nibbles], dim=-1)


def _unpack(stored: Tensor, bits: int) -> Tensor:
    if bits == 4:
        return unpack(stored, 4, _BLOCK)
    fifth, nibbles = stored.split([_BLOCK // 8, _BLOCK // 2], dim=-1)
    spread = fifth.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=stored.device)
    return unpack(nibbles, 4, _BLOCK) | ((spread & 1) << 4).flatten(-2)


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(_IQ4_NL_TABLE, device=device, dtype=torch.float32)


@lru_cache(maxsize=8)
def _table_middles(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return (_table(device)[1:] + _table(device)[:-1]) / 2


def _blocks(quantize: Callable[[Tensor], Tensor], dequantize: Callable[[Tensor], Tensor]) -> CodecFactory:
    def build(cache_format: RowFormat, width: int) -> GgmlRows:
        block_bytes = cache_format.one_row_bytes(Part(name="cache", num_heads=1, width=_BLOCK))
        return GgmlRows(block_bytes, quantize, dequantize)

    return build


CODECS: dict[str, CodecFactory] = {
    "q8_0": _blocks(_quantize_q8_0, _dequantize_q8_0),
    "q4_0": _blocks(partial(_quantize_signed, bits=4), partial(_dequantize_signed, bits=4)),
    "q4_1": _blocks(partial(_quantize_offset, bits=4), partial(_dequantize_offset, bits=4)),
    "q5_0": _blocks(partial(_quantize_signed, bits=5), partial(_dequantize_signed, bits=5)),
    "q5_1": _blocks(partial(_quantize_offset, bits=5), partial(_dequantize_offset, bits=5)),
    "iq4_nl": _blocks(_quantize_iq4_nl, _dequantize_iq4_nl),
}
