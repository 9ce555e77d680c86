"""TurboQuant of vLLM and of LMDeploy: rotated directions in a Gaussian codebook, and values on an even grid.

A row is split into its norm and its direction. The Hadamard transform makes the direction's elements nearly Gaussian
with variance 1 / width, for which Lloyd-Max levels are the best codes (arXiv 2504.19874). Rows come back as they were:
rotated back and scaled. Norms, scales and zero points are fp16, so elements beyond +-65504 become that first; NaN
counts as 0 and an infinity as its row's largest finite magnitude. A row of zeros is exact.

vLLM 0.33 (``triton_turboquant_store.py``, ``triton_turboquant_decode.py``): 3-bit or 4-bit keys whose decoded direction
is brought to unit length before it is scaled, or FP8 keys as they are; values on 8 or 16 even steps between minimum and
maximum. vLLM solves the levels on a coarser grid, which moves its outermost ones by less than 2e-3 standard deviations.

LMDeploy 0.18 (``fill_kv_cache.py``, ``flatten_kv_cache.py``): a key's 4 bits are a 3-bit level and the sign of what it
leaves, which is worth one root mean square of the row's; values have 2-bit levels. Both norms are fp16 here, where
LMDeploy takes the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from kvplan.core.format import RowFormat
from kvplan.core.part import Part
from kvplan.runtime.arithmetic import cast, divide
from kvplan.runtime.codec import CodecFactory, Rows
from kvplan.runtime.codecs.float_rows import StaticFp8Rows
from kvplan.runtime.finite import finite
from kvplan.runtime.hadamard import transform
from kvplan.runtime.packing import pack, packed_bytes, unpack

LLOYD_MAX = {
    2: (0.4527800, 1.5104176),
    3: (0.2450942, 0.7560053, 1.3439093, 2.1519457),
    4: (0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896),
}
"""The positive levels of the best scalar quantizer of a unit Gaussian, by bits (J. Max, 1960, table I: four digits).

Each is the mean of the Gaussian between the midpoints to its neighbours.
"""
_FP16_MAX = 65504.0
_SMALLEST_NORM = 1e-8
_SMALLEST_STEP = 1e-8


@dataclass(frozen=True)
class LevelRows:
    """``codes`` of the levels nearest to a rotated direction, and the row's ``norm``.

    ``direction`` makes of the levels that codes stand for what the norm multiplies.
    """

    bits: int
    width: int
    code_bytes: int
    direction: Callable[[Tensor], Tensor]

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` uint8 [batch, heads, tokens, bytes] and ``norm`` fp16 [batch, heads, tokens, 1]."""
        norm, direction = _split(rows)
        codes = _pack_padded(_nearest(direction, self.bits), self.bits, self.code_bytes)
        return {"codes": codes, "norm": cast(norm, torch.float16)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """The direction times the norm, rotated back."""
        levels = _levels(_unpack_padded(stored["codes"], self.bits, self.width), self.bits)
        return cast(transform(self.direction(levels) * stored["norm"].float()), dtype)


@dataclass(frozen=True)
class SignedResidualRows:
    """LMDeploy's keys: a 3-bit level and the sign of its residual, the row's norm and its residuals' root mean square.

    The residual is that of the direction, so ``residual`` is in units of the norm.
    """

    width: int

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` uint8 [batch, heads, tokens, bytes]; ``norm`` and ``residual`` fp16 [batch, heads, tokens, 1]."""
        norm, direction = _split(rows)
        codes = _nearest(direction, 3)
        residual = direction - _levels(codes, 3)
        size = residual.square().mean(dim=-1, keepdim=True).sqrt()
        packed = pack(codes | ((residual >= 0).to(torch.uint8) << 3), 4)
        return {"codes": packed, "norm": cast(norm, torch.float16), "residual": cast(size, torch.float16)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Level plus or minus the residual, times the norm, rotated back."""
        codes = unpack(stored["codes"], 4, self.width)
        sign = (codes >> 3).float() * 2 - 1
        direction = _levels(codes & 0b111, 3) + sign * stored["residual"].float()
        return cast(transform(direction * stored["norm"].float()), dtype)


@dataclass(frozen=True)
class EvenStepRows:
    """vLLM's values: ``codes`` of even steps from the row's minimum, with ``scale`` and ``zero`` (that minimum)."""

    bits: int
    width: int
    code_bytes: int

    def calibrate(self, rows: Tensor) -> Rows:
        """Nothing is shared."""
        return {}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """``codes`` uint8 [batch, heads, tokens, bytes]; ``scale`` and ``zero`` fp16 [batch, heads, tokens, 1]."""
        rows = _bounded(rows)
        low, high = rows.aminmax(dim=-1, keepdim=True)
        largest = (1 << self.bits) - 1
        scale = divide(high - low, largest).clamp(min=_SMALLEST_STEP)
        codes = ((rows - low) / scale + 0.5).clamp(0, largest).to(torch.uint8)
        packed = _pack_padded(codes, self.bits, self.code_bytes)
        return {"codes": packed, "scale": scale.to(torch.float16), "zero": low.to(torch.float16)}

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Code times scale plus zero, in float32 before the cast."""
        codes = _unpack_padded(stored["codes"], self.bits, self.width).float()
        return cast(codes * stored["scale"].float() + stored["zero"].float(), dtype)


def unit_length(levels: Tensor) -> Tensor:
    """vLLM's norm correction: quantized directions are longer or shorter than 1."""
    return levels / levels.norm(dim=-1, keepdim=True)


def as_they_are(levels: Tensor) -> Tensor:
    """LMDeploy's values keep the length that their levels have."""
    return levels


def _bounded(rows: Tensor) -> Tensor:
    return finite(rows).clamp(-_FP16_MAX, _FP16_MAX)


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The norm [..., 1] and the rotated direction [..., width] of rows."""
    rows = _bounded(rows)
    norm = rows.norm(dim=-1, keepdim=True)
    return norm, transform(rows / (norm + _SMALLEST_NORM))


def _nearest(direction: Tensor, bits: int) -> Tensor:
    """The codes, uint8, of the levels nearest to a direction's elements."""
    levels = _level_table(bits, direction.device)
    middles = (levels[1:] + levels[:-1]) / 2
    scaled = (direction * direction.shape[-1] ** 0.5).contiguous()
    return torch.bucketize(scaled, middles, right=True, out_int32=True).to(torch.uint8)


def _levels(codes: Tensor, bits: int) -> Tensor:
    """The elements of a direction that codes stand for."""
    return _level_table(bits, codes.device)[codes.int()] * codes.shape[-1] ** -0.5


def _pack_padded(codes: Tensor, bits: int, code_bytes: int) -> Tensor:
    """Packed codes, then zero bytes up to ``code_bytes``: the engine's rows are padded to an even length."""
    packed = pack(codes, bits)
    return pad(packed, (0, code_bytes - packed.shape[-1]))


def _unpack_padded(packed: Tensor, bits: int, width: int) -> Tensor:
    return unpack(packed[..., : packed_bytes(width, bits)], bits, width)


@lru_cache(maxsize=16)
def _level_table(bits: int, device: torch.device) -> Tensor:
    """All levels for unit variance, ascending, float32."""
    with torch.inference_mode(False):
        positive = torch.tensor(LLOYD_MAX[bits], device=device, dtype=torch.float32)
        return torch.cat([-positive.flip(0), positive])


def _code_bytes(cache_format: RowFormat, width: int) -> int:
    """Bytes of a row, padding included, without its norm or its scale and zero point."""
    return cache_format.one_row_bytes(Part(name="cache", num_heads=1, width=width)) - cache_format.scale_bytes


def _levels_of(direction: Callable[[Tensor], Tensor]) -> CodecFactory:
    def build(cache_format: RowFormat, width: int) -> LevelRows:
        return LevelRows(cache_format.bits, width, _code_bytes(cache_format, width), direction)

    return build


def _even_steps(cache_format: RowFormat, width: int) -> EvenStepRows:
    return EvenStepRows(cache_format.bits, width, _code_bytes(cache_format, width))


CODECS: dict[str, CodecFactory] = {
    "turboquant_k8v4 key": lambda cache_format, width: StaticFp8Rows(torch.float8_e4m3fn),
    "turboquant_k8v4 value": _even_steps,
    "turboquant_4bit_nc key": _levels_of(unit_length),
    "turboquant_4bit_nc value": _even_steps,
    "turboquant_k3v4_nc key": _levels_of(unit_length),
    "turboquant_k3v4_nc value": _even_steps,
    "turboquant_3bit_nc key": _levels_of(unit_length),
    "turboquant_3bit_nc value": _even_steps,
    "turbo_quant key": lambda cache_format, width: SignedResidualRows(width),
    "turbo_quant value": _levels_of(as_they_are),
}
