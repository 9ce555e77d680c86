"""Floats of 4 or 8 bits with a one-byte scale per block: NVFP4, the OCP microscaling formats, and two engines' own.

Codes are the nearest to x / scale. What counts is how a block's scale follows from its largest magnitude ``amax``:

nvfp4            E4M3 of amax / 6 (the scale that NVIDIA keeps per tensor, besides, is 1)
mxfp4, mxfp8     2**(floor(log2(amax)) - e), with e = 2 for E2M1 and 8 for E4M3; what exceeds the largest code saturates
                 (OCP Microscaling Formats 1.0, section 6.3)
fp4_mx_block16   2**ceil(log2(amax / 6)), amax at least 6e-10 (SGLang 0.5.23 ``kvfp4_tensor.py``)
ultraquant_4bit  0.156 amax rounded to a power of two in its logarithm (vLLM 0.33 ``ultraquant/reference.py``), after a
                 Hadamard rotation. vLLM rotates keys only; rows do not know what they are, so values are rotated, too.

A block of zeros is exact. NaN counts as 0 and an infinity as its row's largest finite magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.runtime.arithmetic import cast, floor_log2
from kvplan.runtime.block_scaled import (
    E2M1_MAX,
    E4M3_SCALE,
    BlockScale,
    BlockScaledRows,
    E2m1Elements,
    E4m3Elements,
    block_scaled,
    covering_exponent,
    e8m0_scale,
)
from kvplan.runtime.codec import CodecFactory, Rows
from kvplan.runtime.finite import finite
from kvplan.runtime.hadamard import transform
from kvplan.runtime.minifloats import E8M0_BIAS, decode_e8m0, encode_e8m0, ties_away, ties_down

_ULTRAQUANT_FACTOR = 0.156
_E2M1_MAX_EXPONENT = 2
_E4M3_MAX_EXPONENT = 8


@dataclass(frozen=True)
class RotatedRows:
    """Rows that another codec stores rotated by the plain Hadamard transform."""

    inner: BlockScaledRows

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """What the inner codec stores."""
        return self.inner.encode(transform(finite(rows)), fixed)

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Rows rotated back, in float32 before the cast."""
        return cast(transform(self.inner.decode(stored, fixed, torch.float32)), dtype)


def _shared_exponent(max_exponent: int) -> Callable[[Tensor], Tensor]:
    """OCP's rule: the exponent of the block's magnitude less that of the largest element; the least one for zeros."""

    def exponent(amax: Tensor) -> Tensor:
        return torch.where(amax > 0, floor_log2(amax) - max_exponent, -E8M0_BIAS)

    return exponent


def _ultraquant_byte(amax: Tensor) -> Tensor:
    """E8M0 of the nearest power of two in the logarithm, at least 2**-126; byte 0 stands for a block of zeros."""
    mantissa, exponent = torch.frexp(amax * _ULTRAQUANT_FACTOR)
    nearest = torch.where(mantissa < 0.5**0.5, exponent - 1, exponent)
    return torch.where(amax > 0, encode_e8m0(nearest.clamp(min=1 - E8M0_BIAS)), 0)


def _ultraquant_value(stored: Tensor) -> Tensor:
    return torch.where(stored == 0, 0.0, decode_e8m0(stored))


_ULTRAQUANT = BlockScaledRows(32, E2m1Elements(ties_down), BlockScale(_ultraquant_byte, _ultraquant_value))
_BLOCK16_SCALE = e8m0_scale(covering_exponent(E2M1_MAX, smallest_amax=6e-10))


CODECS: dict[str, CodecFactory] = {
    "nvfp4": block_scaled(BlockScaledRows(16, E2m1Elements(), E4M3_SCALE)),
    "mxfp4": block_scaled(BlockScaledRows(32, E2m1Elements(), e8m0_scale(_shared_exponent(_E2M1_MAX_EXPONENT)))),
    "mxfp8": block_scaled(BlockScaledRows(32, E4m3Elements(), e8m0_scale(_shared_exponent(_E4M3_MAX_EXPONENT)))),
    "fp4_mx_block16": block_scaled(BlockScaledRows(16, E2m1Elements(ties_away), _BLOCK16_SCALE)),
    "ultraquant_4bit": lambda cache_format, width: RotatedRows(_ULTRAQUANT),
}
