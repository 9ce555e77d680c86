"""The store of a cache format: rows alone, a layout for each part, or groups behind a residual window."""

from __future__ import annotations

from kvplan.core.format import CacheFormat, GroupFormat, PartFormat, RowFormat
from kvplan.core.part import Part
from kvplan.runtime.codecs import row_codec
from kvplan.runtime.group_store import GroupStore
from kvplan.runtime.row_store import RowStore
from kvplan.runtime.store import PartStore


def build_store(cache_format: CacheFormat, part_name: str, width: int) -> PartStore:
    """An empty store for rows of a part (``key``, ``value``, ``latent``, ...), ``width`` elements wide.

    Raises UnsupportedError where the format cannot hold such rows, and LookupError where it has no codec.
    """
    part = Part(name=part_name, num_heads=1, width=width)
    if isinstance(cache_format, GroupFormat):
        return GroupStore(cache_format, part_name, width)
    if isinstance(cache_format, (RowFormat, PartFormat)):
        cache_format.check(part)
        return RowStore(row_codec(cache_format.part_format(part), width))
    raise LookupError(f"{cache_format.name} is of no shape that a store knows")
