"""Arithmetic that gives the same bits on every device and never leaves the range of a dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def divide(values: Tensor, divisor: float) -> Tensor:
    """``values / divisor``, correctly rounded.

    torch multiplies by the reciprocal on CUDA when the divisor is a Python number, which may differ in the last bit
    from the CPU's quotient and from that of the engine that a format comes from.
    """
    return values / torch.full((), divisor, dtype=values.dtype, device=values.device)


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` in ``dtype``, where those beyond its range become its largest finite value instead of infinity."""
    largest = min(torch.finfo(dtype).max, torch.finfo(values.dtype).max)
    return values.clamp(-largest, largest).to(dtype)


def floor_log2(values: Tensor) -> Tensor:
    """The greatest integer exponent with 2**exponent <= value, exactly, as int32; of positive values only."""
    return torch.frexp(values).exponent - 1


def ceil_log2(values: Tensor) -> Tensor:
    """The least integer exponent with 2**exponent >= value, exactly, as int32; of positive values only."""
    mantissa, exponent = torch.frexp(values)
    return torch.where(mantissa == 0.5, exponent - 1, exponent)
