"""Integers with one scale: for a sequence's whole tensor, or for each token and head.

Codes are rounded half to even. NaN counts as 0 and an infinity as the largest finite magnitude of its row; a row of
zeros is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.runtime.arithmetic import cast, divide
from kvplan.runtime.codec import CodecFactory, Rows
from kvplan.runtime.codecs.float_rows import divisor
from kvplan.runtime.finite import finite
from kvplan.runtime.hadamard import rotate, unrotate
from kvplan.runtime.packing import pack, unpack

_ZERO_POINT_BITS = 0xF
"""The mantissa bits of an int4 scale that carry its zero point."""


@dataclass(frozen=True)
class TensorScaleRows:
    """The plain scheme: x / scale, with one fp32 scale = max|x| / (2**(bits-1) - 1) for keys and one for values.

    The first rows of a sequence fix the scale, and later rows saturate. Where the first rows are all zeros the scale is
    1. int8 uses -127..127, int4 uses -8..7, stored plus 8 and packed two to a byte.
    """

    bits: int
    width: int

    def calibrate(self, rows: Tensor) -> Rows:
        """``scale`` [batch, 1, 1, 1] in float32."""
        largest = finite(rows).abs().amax(dim=(1, 2, 3), keepdim=True)
        return {"scale": divisor(divide(largest, self._largest))}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes``: int8 [..., width] for 8 bits, else packed uint8."""
        lowest = -self._largest if self.bits == 8 else -self._largest - 1
        codes = (finite(rows) / fixed["scale"]).round().clamp(lowest, self._largest)
        return {"codes": codes.to(torch.int8) if self.bits == 8 else pack(codes + self._offset, self.bits)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Codes times the scale, multiplied in float32."""
        codes = stored["codes"]
        signed = codes.float() if self.bits == 8 else unpack(codes, self.bits, self.width).float() - self._offset
        return cast(signed * fixed["scale"], dtype)

    @property
    def _largest(self) -> int:
        return self._offset - 1

    @property
    def _offset(self) -> int:
        return 1 << (self.bits - 1)


@dataclass(frozen=True)
class Int8Rows:
    """int8 codes x / scale in -127..127, scale = max|row| / 127 in fp32 (vLLM 0.33 ``triton_attn.py``)."""

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` int8 [batch, heads, tokens, width] and ``scale`` [batch, heads, tokens, 1]."""
        rows = finite(rows)
        scale = divide(rows.abs().amax(dim=-1, keepdim=True), 127)
        return {"codes": (rows / divisor(scale)).round().clamp(-127, 127).to(torch.int8), "scale": scale}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Codes times scales, multiplied in float32."""
        return cast(stored["codes"].float() * stored["scale"], dtype)


@dataclass(frozen=True)
class RotatedInt4Rows:
    """Rotated rows in 4 bits: codes round(x / scale) + zero in 0..15, packed in halves.

    As vLLM 0.33 ``ops/int4_per_token_head.py``, with signs and packing of this package's own. The row's range, zero
    included, makes 15 steps. The integer zero point hides in the low 4 mantissa bits of the stored fp32 scale; the
    scale with those bits cleared is the one that codes.
    """

    width: int

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` uint8 [batch, heads, tokens, cdiv(width, 2)] and ``scale`` [batch, heads, tokens, 1]."""
        rows = finite(rotate(finite(rows)))
        low = rows.amin(dim=-1, keepdim=True).clamp(max=0)
        high = rows.amax(dim=-1, keepdim=True).clamp(min=0)
        scale = (divide(high, 15) - divide(low, 15)).view(torch.int32) & ~_ZERO_POINT_BITS
        step = divisor(scale.view(torch.float32))
        zero = (-low / step).round().clamp(0, 15)
        codes = ((rows / step).round() + zero).clamp(0, 15)
        return {"codes": pack(codes, 4), "scale": (scale | zero.to(torch.int32)).view(torch.float32)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """(code - zero) x scale, rotated back, in float32 before the cast."""
        return cast(unrotate(self.decode_rotated(stored)), dtype)

    def decode_rotated(self, stored: Rows) -> Tensor:
        """(code - zero) x scale in float32: the rows as they were rotated, for queries that are rotated, too."""
        scale, zero = split_scale(stored["scale"])
        return (unpack(stored["codes"], 4, self.width).float() - zero) * scale


def split_scale(stored: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the zero point, both float32, of an int4 row's stored fp32 scale."""
    word = stored.view(torch.int32)
    return (word & ~_ZERO_POINT_BITS).view(torch.float32), (word & _ZERO_POINT_BITS).float()


CODECS: dict[str, CodecFactory] = {
    "int8_per_tensor": lambda cache_format, width: TensorScaleRows(8, width),
    "int4_per_tensor": lambda cache_format, width: TensorScaleRows(4, width),
    "int8_per_token_head": lambda cache_format, width: Int8Rows(),
    "int4_per_token_head": lambda cache_format, width: RotatedInt4Rows(width),
}
