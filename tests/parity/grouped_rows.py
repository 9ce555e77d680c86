"""Rows for the parity of group-wise quantizers, by integer arithmetic alone: the same floats with any torch."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def grouped_rows(shape: tuple[int, int, int, int], offset: float) -> Tensor:
    """Nearly Gaussian float32 rows [batch, heads, tokens, width] of variance 4/3.

    Every eighth channel lies ``offset`` away from zero, as rotary keys have channels that do.
    """
    size = shape[0] * shape[1] * shape[2] * shape[3]
    place = torch.arange(4 * size, dtype=torch.int64)
    word = (place * 1540483477 + 12345) & _WORD
    word = ((word ^ (word >> 15)) * 668265263) & _WORD
    word = ((word ^ (word >> 13)) * 374761393) & _WORD
    sums = (word >> 16).reshape(4, size).sum(dim=0) - 2 * 65535
    rows = (sums.double() / 2**15).float().reshape(shape)
    rows[..., ::8] += offset
    return rows
