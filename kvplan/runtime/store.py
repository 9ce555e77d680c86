"""The contract of a store: one part (keys or values) of one layer, compressed between steps."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kvplan.runtime.codec import Rows


class PartStore(Protocol):
    """Holds rows [batch, heads, tokens, width] in a cache format, oldest first."""

    @property
    def num_tokens(self) -> int:
        """Tokens held."""
        ...

    def append(self, rows: Tensor) -> None:
        """Add newer rows."""
        ...

    def read(self, dtype: torch.dtype) -> Tensor:
        """All rows, decoded."""
        ...

    def keep(self, index: Tensor) -> None:
        """Keep the rows at ``index`` [batch, heads, kept], ascending, and drop the others."""
        ...

    def select_sequences(self, index: Tensor) -> None:
        """Take the sequences at ``index`` [new batch]: beams are reordered, repeated or dropped."""
        ...

    def tensors(self) -> Rows:
        """Every tensor held, by name: codes, scales, zero points, residual, metadata."""
        ...
