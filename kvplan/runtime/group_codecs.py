"""How one group of elements becomes integer codes and the few numbers that turn them back, by GroupFormat.

A group is the last axis. Numbers are coded with the scale as it is stored, rounded to its dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kvplan.core.format import GroupFormat
from kvplan.runtime.arithmetic import cast, divide
from kvplan.runtime.codec import Rows
from kvplan.runtime.hadamard import transform

_LARGEST = 2.0**120
"""Magnitudes above this saturate, so that ranges and sums of a group are float32, too."""

_HQQ_STEPS = 20
_HQQ_BETA = 10.0
_HQQ_NORM = 0.7
_HQQ_SMALLEST_RANGE = 1e-4
_HQQ_SMALLEST_STEP = 1 / 2e4
"""hqq 0.2.8 ``core/quantize.py`` and ``core/optimize.py``, defaults."""


class GroupCodec(Protocol):
    """Codes groups, float32 [..., group]."""

    def encode(self, groups: Tensor) -> tuple[Tensor, Rows]:
        """Codes 0 .. 2**bits - 1, [..., group], and what is stored beside them, [...] each."""
        ...

    def decode(self, codes: Tensor, beside: Rows) -> Tensor:
        """The groups again, float32."""
        ...


@dataclass(frozen=True)
class MinimumGroups:
    """x = minimum + code x scale, scale = (maximum - minimum) / (2**bits - 1): KIVI's, quanto's and mlx-lm's shape.

    The error is at most half a scale where the dtype of the group holds its minimum exactly, as a 16-bit cache does,
    plus what rounding the scale costs: 2**bits - 1 times the scale times 2**-9 in bfloat16, 2**-12 in float16.
    A constant group is exact.
    """

    bits: int
    beside_dtype: torch.dtype

    def encode(self, groups: Tensor) -> tuple[Tensor, Rows]:
        """Codes, ``scale`` and ``minimum``."""
        groups = groups.clamp(-_LARGEST, _LARGEST)
        levels = (1 << self.bits) - 1
        minimum = cast(groups.amin(dim=-1), self.beside_dtype)
        scale = cast(divide(groups.amax(dim=-1) - groups.amin(dim=-1), levels), self.beside_dtype)
        steps = (groups - minimum.float()[..., None]) / _divisor(scale.float())[..., None]
        return steps.round().clamp(0, levels), {"scale": scale, "minimum": minimum}

    def decode(self, codes: Tensor, beside: Rows) -> Tensor:
        """minimum + code x scale."""
        return beside["minimum"].float()[..., None] + codes.float() * beside["scale"].float()[..., None]


@dataclass(frozen=True)
class HalfQuadraticGroups:
    """x = (code - zero) x scale with a real-valued zero point, moved to where the error's 0.7-norm is small: HQQ.

    The half-quadratic solver of hqq 0.2.8 (``optimize_weights_proximal``) with its defaults, but each group stops on
    its own once its mean error grows, so a group does not depend on the others. As in hqq, a range up to 1e-4 counts as
    constant and no scale is below 5e-5. Unlike hqq, no scale is so small that the zero point leaves float16.
    hqq also decodes in the model's dtype, which costs 8 bits of bfloat16 a third more error; here it is float32.
    """

    bits: int
    beside_dtype: torch.dtype

    def encode(self, groups: Tensor) -> tuple[Tensor, Rows]:
        """Codes, ``scale`` and ``zero``."""
        groups = groups.clamp(-_LARGEST, _LARGEST)
        exact = self._scale(groups)
        zero = cast(self._solve(groups, 1 / exact[..., None]), self.beside_dtype)
        scale = cast(exact, self.beside_dtype)
        codes = (groups / scale.float()[..., None] + zero.float()[..., None]).round().clamp(0, self._levels)
        return codes, {"scale": scale, "zero": zero}

    def decode(self, codes: Tensor, beside: Rows) -> Tensor:
        """(code - zero) x scale."""
        return (codes.float() - beside["zero"].float()[..., None]) * beside["scale"].float()[..., None]

    @property
    def _levels(self) -> int:
        return (1 << self.bits) - 1

    def _scale(self, groups: Tensor) -> Tensor:
        """Float32 [...]; 1 for a constant group, whose minimum the zero point then holds exactly."""
        spread = groups.amax(dim=-1) - groups.amin(dim=-1)
        scale = torch.maximum(divide(spread, self._levels), groups.abs().amax(dim=-1) * 2.0**-15)
        return torch.where(spread <= _HQQ_SMALLEST_RANGE, 1.0, scale.clamp(min=_HQQ_SMALLEST_STEP))

    def _solve(self, groups: Tensor, inverse: Tensor) -> Tensor:
        """The zero point, float32 [...], with the least mean error among at most 20 proximal steps."""
        zero = chosen = -groups.amin(dim=-1, keepdim=True) * inverse
        least = torch.full_like(zero, torch.inf)
        for _ in range(_HQQ_STEPS):
            codes = (groups * inverse + zero).round().clamp(0, self._levels)
            error = groups - (codes - zero) / inverse
            mean = error.abs().mean(dim=-1, keepdim=True)
            better = mean < least
            if not better.any():
                break
            chosen = torch.where(better, zero, chosen)
            least = torch.where(better, mean, -torch.inf)
            zero = (codes - (groups - _shrink(error)) * inverse).mean(dim=-1, keepdim=True)
        return chosen[..., 0]


@dataclass(frozen=True)
class MidpointGroups:
    """ExLlamaV3's: groups are Hadamard-transformed, and 2**bits equal cells cover -amax..amax, coded by their middles.

    One float16 scale amax per group; 1.6.5 ``exllamav3_ext/cache/q_cache_kernels.cuh`` without companding. The error of
    a transformed element is at most half a cell, amax / 2**bits.
    """

    bits: int

    def encode(self, groups: Tensor) -> tuple[Tensor, Rows]:
        """Codes and ``scale``."""
        groups = transform(groups.clamp(-_LARGEST, _LARGEST))
        scale = cast(groups.abs().amax(dim=-1), torch.float16)
        half = 1 << (self.bits - 1)
        cells = groups / _divisor(scale.float())[..., None] * half + half
        return cells.floor().clamp(0, 2 * half - 1), {"scale": scale}

    def decode(self, codes: Tensor, beside: Rows) -> Tensor:
        """The middles of the cells, transformed back."""
        half = 1 << (self.bits - 1)
        return transform(((codes.float() + 0.5) / half - 1) * beside["scale"].float()[..., None])


def group_codec(cache_format: GroupFormat, native: torch.dtype) -> GroupCodec:
    """The codec of a GroupFormat in a model of a 16-bit or 32-bit dtype. Raises LookupError where there is none."""
    name = cache_format.name.partition(":")[0]
    if name not in _CODECS:
        raise LookupError(f"{name} has no codec in kvplan.runtime.group_codecs")
    return _CODECS[name](cache_format, native)


def _pair_dtype(cache_format: GroupFormat, native: torch.dtype) -> torch.dtype:
    """The dtype of a scale and its zero point, which take ``scale_bytes`` together."""
    if cache_format.scale_bytes == 8:
        return torch.float32
    if cache_format.scale_bytes == 4 and native.itemsize == 2:
        return native
    if cache_format.scale_bytes == 4:
        return torch.bfloat16
    raise LookupError(
        f"{cache_format.name}: a scale and a zero point take 4 or 8 bytes, not {cache_format.scale_bytes}"
    )


def _divisor(scale: Tensor) -> Tensor:
    """The scale, or 1 where it is 0."""
    return torch.where(scale == 0, 1.0, scale)


def _shrink(error: Tensor) -> Tensor:
    """The proximal operator of the 0.7-norm: the outliers among the errors."""
    size = error.abs()
    return (size - size.pow(_HQQ_NORM - 1) / _HQQ_BETA).clamp(min=0) * error.sign()


def _minimum(cache_format: GroupFormat, native: torch.dtype) -> GroupCodec:
    return MinimumGroups(cache_format.bits, _pair_dtype(cache_format, native))


def _half_quadratic(cache_format: GroupFormat, native: torch.dtype) -> GroupCodec:
    return HalfQuadraticGroups(cache_format.bits, _pair_dtype(cache_format, native))


def _midpoint(cache_format: GroupFormat, native: torch.dtype) -> GroupCodec:
    return MidpointGroups(cache_format.bits)


_CODECS: dict[str, Callable[[GroupFormat, torch.dtype], GroupCodec]] = {
    "int_group": _minimum,
    "kivi": _minimum,
    "quanto": _minimum,
    "hqq": _half_quadratic,
    "exl3": _midpoint,
}
