"""Rows that a GroupFormat has quantized: packed codes and what is stored beside each group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.runtime.codec import Rows
from kvplan.runtime.finite import finite
from kvplan.runtime.group_codecs import GroupCodec
from kvplan.runtime.packing import pack, unpack
from kvplan.runtime.row_store import gather_tokens


@dataclass(frozen=True)
class QuantizedRows:
    """``tokens`` rows. ``beside`` has the token, or the group of tokens, on axis 2."""

    packed: Tensor
    beside: Rows
    tokens: int


@dataclass(frozen=True)
class GroupLayout:
    """Where the groups of rows lie, and how their codes are packed.

    ``along_tokens``  a group is ``group`` tokens of one channel; otherwise ``group`` neighbours of one row.
    Codes are packed row by row, [batch, heads, tokens, bytes], where a row ends on a byte; otherwise they are one
    stream per head, [batch, heads, bytes], so that no bits are lost between rows.
    """

    codec: GroupCodec
    bits: int
    group: int
    width: int
    along_tokens: bool

    def encode(self, rows: Tensor) -> QuantizedRows:
        """Rows [batch, heads, tokens, width]; whole groups of tokens where groups lie along them.

        NaN counts as 0 and an infinity as the largest finite magnitude of its row.
        """
        codes, beside = self.codec.encode(self._grouped(finite(rows)))
        packed = self._pack(self._ungrouped(codes))
        return QuantizedRows(packed, {name: held.contiguous() for name, held in beside.items()}, rows.shape[2])

    def decode(self, stored: QuantizedRows) -> Tensor:
        """Rows in float32."""
        return self._ungrouped(self.codec.decode(self._grouped(self._unpack(stored)), stored.beside))

    def join(self, older: QuantizedRows, newer: QuantizedRows) -> QuantizedRows:
        """Both, one behind the other."""
        beside = {name: torch.cat([held, newer.beside[name]], dim=2) for name, held in older.beside.items()}
        if self._rows_end_on_bytes:
            packed = torch.cat([older.packed, newer.packed], dim=2)
        else:
            packed = self._pack(torch.cat([self._unpack(older), self._unpack(newer)], dim=2))
        return QuantizedRows(packed, beside, older.tokens + newer.tokens)

    def gather(self, stored: QuantizedRows, index: Tensor) -> QuantizedRows:
        """The rows at ``index`` [batch, heads, kept], untouched; only where groups lie along rows."""
        beside = {name: gather_tokens(held, index) for name, held in stored.beside.items()}
        if self._rows_end_on_bytes:
            packed = gather_tokens(stored.packed, index)
        else:
            packed = self._pack(gather_tokens(self._unpack(stored), index))
        return QuantizedRows(packed, beside, index.shape[2])

    @property
    def _rows_end_on_bytes(self) -> bool:
        return self.width * self.bits % 8 == 0

    def _pack(self, codes: Tensor) -> Tensor:
        return pack(codes if self._rows_end_on_bytes else codes.flatten(2), self.bits).contiguous()

    def _unpack(self, stored: QuantizedRows) -> Tensor:
        if self._rows_end_on_bytes:
            return unpack(stored.packed, self.bits, self.width)
        return unpack(stored.packed, self.bits, stored.tokens * self.width).unflatten(2, (stored.tokens, self.width))

    def _grouped(self, rows: Tensor) -> Tensor:
        """[batch, heads, tokens, width] as [..., group]."""
        if self.along_tokens:
            return rows.unflatten(2, (rows.shape[2] // self.group, self.group)).transpose(3, 4).contiguous()
        return rows.unflatten(3, (self.width // self.group, self.group))

    def _ungrouped(self, groups: Tensor) -> Tensor:
        return groups.transpose(3, 4).flatten(2, 3) if self.along_tokens else groups.flatten(3)
