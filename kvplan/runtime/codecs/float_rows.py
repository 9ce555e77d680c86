"""Floats: 16 and 32 bits as they are, FP8 with a static scale, a scale per row, or one per 128 elements (index keys).

FP8 saturates: values beyond the largest of the format, infinities included, become that, and NaN becomes 0. The
16-bit and 32-bit formats are casts that keep NaN; only values beyond the range of the new dtype saturate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.core.format import RowFormat
from kvplan.runtime.arithmetic import cast, divide
from kvplan.runtime.codec import CodecFactory, Rows
from kvplan.runtime.finite import finite


@dataclass(frozen=True)
class CastRows:
    """Elements in another float dtype."""

    stored_dtype: torch.dtype

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` in the stored dtype; the same dtype is left untouched, bit for bit."""
        if rows.dtype == self.stored_dtype:
            return {"codes": rows.clone(memory_format=torch.contiguous_format)}
        return {"codes": cast(rows, self.stored_dtype)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """The codes in ``dtype``."""
        return stored["codes"].to(dtype)


@dataclass
class StaticFp8Rows:
    """FP8 codes of x / ``scale``; the scale belongs to the layer's weights, as in engines, and is not stored."""

    stored_dtype: torch.dtype
    scale: float = 1.0

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` [batch, heads, tokens, width], saturated."""
        return {"codes": to_fp8(divide(rows.float(), self.scale), self.stored_dtype)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Codes times the scale, multiplied in float32."""
        return cast(stored["codes"].float() * self.scale, dtype)


@dataclass(frozen=True)
class ScaledFp8Rows:
    """e4m3 codes with an fp32 scale amax / 448 for every ``group`` elements; the last group of a row may be short.

    Infinities count as the row's largest finite magnitude, and a group of zeros has scale 0.
    """

    width: int
    group: int

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` [batch, heads, tokens, width] and ``scale`` [batch, heads, tokens, groups]."""
        rows = finite(rows)
        groups = torch.stack([part.abs().amax(dim=-1) for part in rows.split(self.group, dim=-1)], dim=-1)
        scale = divide(groups, torch.finfo(torch.float8_e4m3fn).max)
        return {"codes": to_fp8(rows / self._spread(divisor(scale)), torch.float8_e4m3fn), "scale": scale}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Codes times scales, multiplied in float32."""
        return cast(stored["codes"].float() * self._spread(stored["scale"]), dtype)

    def _spread(self, scale: Tensor) -> Tensor:
        """A scale for each element of a row."""
        return scale.repeat_interleave(self.group, dim=-1)[..., : self.width] if scale.shape[-1] > 1 else scale


def to_fp8(values: Tensor, fp8: torch.dtype) -> Tensor:
    """float32 values cast to an FP8 dtype: saturated at its largest value, NaN as 0."""
    return cast(values.nan_to_num(nan=0.0), fp8)


def divisor(scale: Tensor) -> Tensor:
    """The scale, or 1 where it is 0, so that zeros divide to zeros."""
    return torch.where(scale == 0, 1.0, scale)


def _fp8(fp8: torch.dtype) -> CodecFactory:
    """Static scale, or the scales of index keys (``RowFormat.part_format``), which engines keep in e4m3 always."""

    def build(cache_format: RowFormat, width: int) -> StaticFp8Rows | ScaledFp8Rows:
        return ScaledFp8Rows(width, cache_format.scale_group) if cache_format.scale_bytes else StaticFp8Rows(fp8)

    return build


CODECS: dict[str, CodecFactory] = {
    "bf16": lambda cache_format, width: CastRows(torch.bfloat16),
    "fp16": lambda cache_format, width: CastRows(torch.float16),
    "fp32": lambda cache_format, width: CastRows(torch.float32),
    "fp8_e4m3": _fp8(torch.float8_e4m3fn),
    "fp8_e5m2": _fp8(torch.float8_e5m2),
    "fp8_per_token_head": lambda cache_format, width: ScaledFp8Rows(width, width),
}
