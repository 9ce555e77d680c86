"""E2M1, the 4-bit float, as codes, and E8M0, the power of two that scales a block, as bytes.

OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3 and 5.4. E4M3 is torch's own float8_e4m3fn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

E2M1_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitude of each three-bit code; bit 3 is the sign."""
E8M0_BIAS = 127
E8M0_LARGEST = 254
"""The greatest byte that is a number: 255 is NaN."""

_LARGEST_CODE = len(E2M1_LEVELS) - 1

Ties = Callable[[int], bool]
"""Whether halfway between the levels of a signed code (-7 .. 6) and of the next one counts as the next one."""


def ties_to_even(below: int) -> bool:
    """IEEE rounding: OCP MX and NVIDIA's ``cvt.rn``."""
    return below % 2 == 1


def ties_away(below: int) -> bool:
    """Away from zero: SGLang 0.5.23 ``kvfp4_tensor.py``."""
    return below >= 0


def ties_down(below: int) -> bool:
    """To the lower level: vLLM 0.33 ``ultraquant/reference.py``, a plain ``bucketize``."""
    return False


def encode_e2m1(values: Tensor, ties: Ties = ties_to_even) -> Tensor:
    """The nearest code (0 .. 15) of each float32, saturating at 6; whatever rounds to zero becomes +0."""
    level = torch.bucketize(values.contiguous(), _bounds(ties, values.device), out_int32=True) - _LARGEST_CODE
    return torch.where(level < 0, 8 - level, level).to(torch.uint8)


def decode_e2m1(codes: Tensor) -> Tensor:
    """The float32 values of codes 0 .. 15."""
    return _values(codes.device)[codes.int()]


def encode_e8m0(exponents: Tensor) -> Tensor:
    """The byte of 2**exponent, the exponent clamped to -127 .. 127."""
    return (exponents + E8M0_BIAS).clamp(0, E8M0_LARGEST).to(torch.uint8)


def decode_e8m0(codes: Tensor) -> Tensor:
    """2**(byte - 127) in float32, for bytes that are numbers."""
    normal = (codes.to(torch.int32) << 23).view(torch.float32)  # the byte is a float32's biased exponent
    return torch.where(codes == 0, 2.0**-E8M0_BIAS, normal)


@lru_cache(maxsize=16)
def _bounds(ties: Ties, device: torch.device) -> Tensor:
    """The 14 midpoints between signed levels, each lowered by one bit where a tie goes up; float32, ascending."""
    below = range(-_LARGEST_CODE, _LARGEST_CODE)
    with torch.inference_mode(False):
        middle = torch.tensor([(_level(code) + _level(code + 1)) / 2 for code in below], device="cpu")
        lowered = torch.nextafter(middle, torch.full_like(middle, -torch.inf))
        return torch.where(torch.tensor([ties(code) for code in below], device="cpu"), lowered, middle).to(device)


@lru_cache(maxsize=8)
def _values(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        levels = torch.tensor(E2M1_LEVELS, device=device, dtype=torch.float32)
        return torch.cat([levels, -levels])


def _level(code: int) -> float:
    return E2M1_LEVELS[code] if code >= 0 else -E2M1_LEVELS[-code]
