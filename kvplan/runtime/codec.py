"""The torch half of a cache format: rows become the very tensors that the calculator prices, and rows again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from kvplan.core.format import RowFormat

Rows = dict[str, Tensor]
"""What is stored, by name: ``codes``, ``scale``, ... Axis 2 is the token in each: [batch, heads, tokens, ...]."""


class RowCodec(Protocol):
    """Encodes and decodes rows that stand alone, [batch, heads, tokens, width], in one RowFormat."""

    def calibrate(self, rows: Tensor) -> Rows:
        """Tensors that a whole sequence shares, [batch, 1, 1, 1], fixed by the first rows; empty for most formats."""
        ...

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """The stored tensors of ``rows``; their bytes, with those of ``fixed``, are what the format prices."""
        ...

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """Rows of ``dtype``, [batch, heads, tokens, width]."""
        ...


CodecFactory = Callable[[RowFormat, int], RowCodec]
"""Builds a codec for rows of a width. Raises UnsupportedError for a width that the format cannot hold."""


def nbytes(stored: Rows) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
