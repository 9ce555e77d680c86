"""The tensors that a cache format stores for a part, as its own codec makes them: shapes and dtypes, no prices.

A few rows are really encoded, and the shapes for all rows follow from how the tensors grow.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import torch

from kvplan.core.format import CacheFormat, GroupFormat
from kvplan.core.part import Part, StateTensor
from kvplan.runtime.stores import build_store

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""The float dtypes that models compute in and states are kept in."""


@dataclass(frozen=True, kw_only=True)
class TensorShape:
    """One tensor that is to be allocated. Axis 0 is the sequence, or the block where a cache is paged."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def repeat(self, count: int) -> TensorShape:
        """The same for ``count`` times as many sequences or blocks."""
        return replace(self, shape=(count * self.shape[0], *self.shape[1:]))


def row_tensors(cache_format: CacheFormat, part: Part, rows: int, dtype: torch.dtype) -> tuple[TensorShape, ...]:
    """What ``rows`` rows of every head of a part are stored in, for one sequence.

    ``dtype`` is the model's. Shapes of many rows are read off two encodings of few: a step of ``period`` rows adds the
    same to each axis. Raises UnsupportedError or LookupError where the format has no codec for such rows.
    """
    if not rows:
        return ()
    period = _period(cache_format)
    fewest = rows % period + 2 * period  # beyond one residual, so that nothing is empty that would grow
    if rows <= fewest + period:
        return _encoded(cast(Hashable, cache_format), part, rows, dtype)
    less, more = (_encoded(cast(Hashable, cache_format), part, count, dtype) for count in (fewest, fewest + period))
    steps = (rows - fewest) // period
    return tuple(
        replace(small, shape=tuple(a + steps * (b - a) for a, b in zip(small.shape, large.shape)))
        for small, large in zip(less, more)
    )


def state_tensor(state: StateTensor, dtype: torch.dtype) -> TensorShape:
    """One sequence's state: units x elements, in its dtype (``model`` is ``dtype``)."""
    shape = (1, state.num_units, state.unit_elements)
    return TensorShape(name=state.name, shape=shape, dtype=dtype if state.dtype == "model" else DTYPES[state.dtype])


def flat_tensor(name: str, size_bytes: int) -> TensorShape:
    """Bytes whose shape the engine alone knows."""
    return TensorShape(name=name, shape=(size_bytes,), dtype=torch.uint8)


def _period(cache_format: CacheFormat) -> int:
    """Rows after which every tensor has grown alike: whole groups, residuals and, packed, whole bytes."""
    if isinstance(cache_format, GroupFormat):
        return math.lcm(8, cache_format.group, cache_format.residual or 1)
    return 1


@lru_cache(maxsize=1024)
def _encoded(cache_format: Hashable, part: Part, rows: int, dtype: torch.dtype) -> tuple[TensorShape, ...]:
    store = build_store(cast(CacheFormat, cache_format), part.name, part.width)
    store.append(torch.zeros(1, part.num_heads, rows, part.width, dtype=dtype))
    return tuple(
        TensorShape(name=f"{part.name}.{name}", shape=tuple(tensor.shape), dtype=tensor.dtype)
        for name, tensor in store.tensors().items()
    )
