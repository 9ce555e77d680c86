"""A store for GroupFormats: quantized groups behind a residual window of rows in the model's own dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from kvplan.core.format import GroupFormat
from kvplan.core.part import Part
from kvplan.runtime.arithmetic import cast
from kvplan.runtime.codec import Rows
from kvplan.runtime.group_codecs import group_codec
from kvplan.runtime.group_rows import GroupLayout, QuantizedRows
from kvplan.runtime.row_store import gather_tokens

_KEY = "key"


class GroupStore:
    """A PartStore for int_group, kivi, quanto, hqq and exl3.

    Rows wait in the residual, in the model's dtype, until ``GroupFormat.quantized_rows`` says that they leave it, and
    are quantized from there, once; so appends of any sizes give the same store as a single append of all rows. The
    first rows decide the dtype of the residual: their own where it has ``native_bytes``, else bfloat16 or float32.
    Groups that span heads (exl3, where 32 does not divide a head's row) are stored under a single head.
    """

    def __init__(self, cache_format: GroupFormat, part_name: str, width: int) -> None:
        self._format = cache_format
        self._part = Part(name=part_name, num_heads=1, width=width)
        self._layout: GroupLayout | None = None
        self._quantized: QuantizedRows | None = None
        self._residual: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens held."""
        waiting = 0 if self._residual is None else self._residual.shape[2]
        return waiting + self._quantized_tokens

    def append(self, rows: Tensor) -> None:
        """Add newer rows [batch, heads, tokens, width]. Raises UnsupportedError for rows that groups do not divide."""
        if self._residual is None:
            self._start(rows)
        assert self._residual is not None
        waiting = torch.cat([self._residual, cast_rows(rows, self._residual.dtype)], dim=2)
        total = self._quantized_tokens + waiting.shape[2]
        leaving = self._format.quantized_rows(self._part, total) - self._quantized_tokens
        if leaving:
            self._quantize(waiting[:, :, :leaving])
            waiting = waiting[:, :, leaving:].clone()
        self._residual = waiting

    def read(self, dtype: torch.dtype) -> Tensor:
        """All rows in ``dtype``, oldest first. Raises ValueError before the first append."""
        residual = cast_rows(self._held, dtype)
        if self._quantized is None:
            return residual
        assert self._layout is not None
        decoded = cast(self._layout.decode(self._quantized), dtype)
        return torch.cat([self._split(decoded), residual], dim=2)

    def keep(self, index: Tensor) -> None:
        """Keep the rows at ``index`` [batch, heads, kept], ascending.

        Where groups lie along one row of one head, rows that stay quantized keep their codes, rows that leave the
        residual are quantized from the originals, and rows that the smaller store counts to its residual are decoded
        into it. Groups along tokens and across heads fall apart when tokens go, so there every row is decoded and
        encoded anew, a second rounding; only the rows of the residual are still the originals.
        """
        index = index.to(self._held.device, torch.int64)
        if self._rows_stand_alone:
            self._keep_rows(index)
        else:
            kept = gather_tokens(self.read(self._held.dtype), index)
            self._quantized = None
            self._residual = kept[:, :, :0].clone()
            self.append(kept)

    def select_sequences(self, index: Tensor) -> None:
        """Take the sequences at ``index`` [new batch]: beams are reordered, repeated or dropped."""
        index = index.to(self._held.device)
        self._residual = self._held[index]
        if self._quantized is not None:
            beside = {name: held[index] for name, held in self._quantized.beside.items()}
            self._quantized = QuantizedRows(self._quantized.packed[index], beside, self._quantized.tokens)

    def tensors(self) -> Rows:
        """``codes``, ``scale``, ``minimum`` or ``zero``, and ``residual``; without quantized rows the last alone."""
        if self._residual is None:
            return {}
        residual = {"residual": self._residual}
        if self._quantized is None:
            return residual
        return {"codes": self._quantized.packed, **self._quantized.beside, **residual}

    @property
    def _held(self) -> Tensor:
        if self._residual is None:
            raise ValueError("nothing was appended yet")
        return self._residual

    @property
    def _quantized_tokens(self) -> int:
        return 0 if self._quantized is None else self._quantized.tokens

    @property
    def _along_tokens(self) -> bool:
        return self._format.key_per_channel and self._part.name == _KEY

    @property
    def _heads_merge(self) -> bool:
        """Groups span heads: only a format whose ``check`` lets the group not divide the width has such."""
        return not self._along_tokens and self._part.width % self._format.group > 0

    @property
    def _rows_stand_alone(self) -> bool:
        return not self._along_tokens and not self._heads_merge

    def _start(self, rows: Tensor) -> None:
        """Fix what depends on the first rows: heads, dtypes and with them the layout."""
        heads, width = rows.shape[1], self._part.width
        self._part = Part(name=self._part.name, num_heads=heads, width=width)
        self._format.check(self._part)
        native = native_dtype(rows.dtype, self._format.native_bytes)
        self._layout = GroupLayout(
            codec=group_codec(self._format, native),
            bits=self._format.bits,
            group=self._format.group,
            width=heads * width if self._heads_merge else width,
            along_tokens=self._along_tokens,
        )
        self._residual = rows.new_empty((rows.shape[0], heads, 0, width), dtype=native)

    def _quantize(self, rows: Tensor) -> None:
        assert self._layout is not None
        newer = self._layout.encode(self._merge(rows))
        self._quantized = newer if self._quantized is None else self._layout.join(self._quantized, newer)

    def _keep_rows(self, index: Tensor) -> None:
        """As ``keep``: all rows as if quantized, of which the oldest are taken, and all decoded, for the newest."""
        assert self._layout is not None
        staying = self._format.quantized_rows(self._part, index.shape[2])
        residual = gather_tokens(self.read(self._held.dtype), index[:, :, staying:])
        if staying:
            self._quantize(self._held)
            assert self._quantized is not None
            self._quantized = self._layout.gather(self._quantized, index[:, :, :staying])
        else:
            self._quantized = None
        self._residual = residual

    def _merge(self, rows: Tensor) -> Tensor:
        """All heads of a token as one row, where groups span heads."""
        return rows.transpose(1, 2).flatten(2).unsqueeze(1) if self._heads_merge else rows

    def _split(self, rows: Tensor) -> Tensor:
        """The inverse of ``_merge``."""
        if not self._heads_merge:
            return rows
        return rows.squeeze(1).unflatten(2, (self._part.num_heads, self._part.width)).transpose(1, 2)


def native_dtype(dtype: torch.dtype, native_bytes: int) -> torch.dtype:
    """``dtype`` where it takes ``native_bytes``, else bfloat16 for 2 bytes and float32 for 4."""
    if dtype.itemsize == native_bytes:
        return dtype
    return torch.float32 if native_bytes == 4 else torch.bfloat16


def cast_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in ``dtype``; finite values beyond its range saturate, and the same dtype is left untouched."""
    return rows if rows.dtype == dtype else cast(rows, dtype)
