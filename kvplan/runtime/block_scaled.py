"""Rows of 4-bit or 8-bit floats with a scale for each block of elements: microscaling and DeepSeek's latent rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from kvplan.runtime.arithmetic import cast, ceil_log2, divide
from kvplan.runtime.codec import CodecFactory, Rows
from kvplan.runtime.codecs.float_rows import to_fp8
from kvplan.runtime.finite import finite
from kvplan.runtime.minifloats import Ties, decode_e2m1, decode_e8m0, encode_e2m1, encode_e8m0, ties_to_even
from kvplan.runtime.packing import pack, unpack

E2M1_MAX = 6.0
E4M3_MAX = 448.0


@dataclass(frozen=True)
class BlockScale:
    """How the largest magnitude of a block becomes its stored scale, and what a stored scale multiplies codes by."""

    store: Callable[[Tensor], Tensor]
    load: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class E2m1Elements:
    """Half a byte per element: byte ``i`` holds element ``i`` low and element ``i + width / 2`` high."""

    ties: Ties = ties_to_even

    def encode(self, values: Tensor) -> Tensor:
        """uint8 [..., width / 2]."""
        return pack(encode_e2m1(values, self.ties), 4)

    def decode(self, codes: Tensor) -> Tensor:
        """float32 [..., width]."""
        return decode_e2m1(unpack(codes, 4, 2 * codes.shape[-1]))


@dataclass(frozen=True)
class E4m3Elements:
    """A byte per element."""

    def encode(self, values: Tensor) -> Tensor:
        """float8_e4m3fn [..., width], saturated at 448."""
        return to_fp8(values, torch.float8_e4m3fn)

    def decode(self, codes: Tensor) -> Tensor:
        """float32 [..., width]."""
        return codes.float()


@dataclass(frozen=True)
class BlockScaledRows:
    """``codes``, and a ``scale`` for each ``block`` elements, then ``scale_padding`` scales that are zero.

    NaN is stored as 0 and an infinity as its row's largest finite magnitude. A block with a scale of 0 is zeros.
    """

    block: int
    elements: E2m1Elements | E4m3Elements
    scale: BlockScale
    scale_padding: int = 0

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` [batch, heads, tokens, bytes] and ``scale`` [batch, heads, tokens, blocks]."""
        blocks = finite(rows).unflatten(-1, (-1, self.block))
        scale = self.scale.store(blocks.abs().amax(dim=-1))
        step = self.scale.load(scale).unsqueeze(-1)
        scaled = torch.where(step > 0, blocks / step, 0.0).flatten(-2)
        return {"codes": self.elements.encode(scaled), "scale": pad(scale, (0, self.scale_padding))}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Codes times scales, multiplied in float32."""
        values = self.elements.decode(stored["codes"]).unflatten(-1, (-1, self.block))
        step = self.scale.load(stored["scale"][..., : values.shape[-2]]).unsqueeze(-1)
        return cast((values * step).flatten(-2), dtype)


def block_scaled(rows: BlockScaledRows) -> CodecFactory:
    """Builds ``rows`` for every width."""
    return lambda cache_format, width: rows


def covering_exponent(largest: float, smallest_amax: float) -> Callable[[Tensor], Tensor]:
    """The least power of two that brings a block's magnitude (at least ``smallest_amax``) within ``largest``."""

    def exponent(amax: Tensor) -> Tensor:
        return ceil_log2(divide(amax.clamp(min=smallest_amax), largest))

    return exponent


def e8m0_scale(exponent: Callable[[Tensor], Tensor]) -> BlockScale:
    """A power of two in one byte."""
    return BlockScale(store=lambda amax: encode_e8m0(exponent(amax)), load=decode_e8m0)


E4M3_SCALE = BlockScale(
    store=lambda amax: to_fp8(divide(amax, E2M1_MAX), torch.float8_e4m3fn), load=lambda scale: scale.float()
)
"""What brings a block of E2M1 within 6, rounded to E4M3; below 2**-10 it is zero, and so is the block."""
