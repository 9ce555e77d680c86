"""A store of rows that stand alone: concatenated on append, gathered on keep, whatever the codec stores."""

from __future__ import annotations

import torch
from torch import Tensor

from kvplan.runtime.codec import RowCodec, Rows


class RowStore:
    """A PartStore over a RowCodec, which alone knows what the stored tensors mean: axis 2 of each is the token.

    What a whole sequence shares (``calibrate``) is fixed by the first rows, so later rows saturate.
    """

    def __init__(self, codec: RowCodec) -> None:
        self._codec = codec
        self._stored: Rows = {}
        self._fixed: Rows = {}

    @property
    def num_tokens(self) -> int:
        """Tokens held."""
        return next(iter(self._stored.values())).shape[2] if self._stored else 0

    def append(self, rows: Tensor) -> None:
        """Add newer rows, [batch, heads, tokens, width]."""
        if not self._stored:
            self._fixed = self._codec.calibrate(rows)
        encoded = self._codec.encode(rows, self._fixed)
        if self._stored:
            encoded = {name: torch.cat([held, encoded[name]], dim=2) for name, held in self._stored.items()}
        self._stored = encoded

    def read(self, dtype: torch.dtype) -> Tensor:
        """All rows in ``dtype``, [batch, heads, tokens, width]."""
        return self._codec.decode(self._stored, self._fixed, dtype)

    def keep(self, index: Tensor) -> None:
        """Keep the rows at ``index`` [batch, heads, kept], ascending."""
        self._stored = {name: gather_tokens(held, index) for name, held in self._stored.items()}

    def select_sequences(self, index: Tensor) -> None:
        """Take the sequences at ``index`` [new batch]: beams are reordered, repeated or dropped."""
        self._stored = {name: held[index.to(held.device)] for name, held in self._stored.items()}
        self._fixed = {name: held[index.to(held.device)] for name, held in self._fixed.items()}

    def tensors(self) -> Rows:
        """Every tensor held, by name; what a sequence shares is called ``sequence_...``."""
        return {**self._stored, **{f"sequence_{name}": held for name, held in self._fixed.items()}}


def gather_tokens(held: Tensor, index: Tensor) -> Tensor:
    """The tokens at ``index`` [batch, heads, kept] of a tensor [batch, heads, tokens, ...]."""
    index = index.to(held.device, torch.int64)
    trailing = held.shape[3:]
    wide = index.reshape(*index.shape, *(1 for _ in trailing)).expand(*index.shape, *trailing)
    if held.dtype in _CODES_WITHOUT_GATHER:
        return held.view(torch.uint8).gather(2, wide).view(held.dtype)
    return held.gather(2, wide)


_CODES_WITHOUT_GATHER = tuple(
    dtype
    for dtype in (getattr(torch, name, None) for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"))
    if dtype is not None
)
"""One-byte floats, which torch (2.13) moves on some devices only; as bytes they move on all."""
