"""A model of torch's CUDA caching allocator, for a pool without free blocks: what allocations really take.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp`` (``round_size``, ``get_pool``, ``get_allocation_size``,
``get_free_block``, ``should_split``) with its default settings; they and the sizes in ``c10/core/AllocatorConfig.h``
have been the same from torch 1.8 to 2.11. Settings in ``PYTORCH_CUDA_ALLOC_CONF`` change them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from kvplan.core.units import MIB, round_up

MIN_BLOCK_BYTES = 512
"""Every block is a multiple of this (``kMinBlockSize``)."""

SMALL_BYTES = MIB
"""The largest block of the small pool (``kSmallSize``)."""

SMALL_SEGMENT_BYTES = 2 * MIB
"""A segment of the small pool (``kSmallBuffer``)."""

LARGE_SEGMENT_BYTES = 20 * MIB
"""A segment of the large pool for blocks below ``OWN_SEGMENT_BYTES`` (``kLargeBuffer``, ``large_segment_size``)."""

OWN_SEGMENT_BYTES = 10 * MIB
"""Blocks of this size and above have a segment of their own (``kMinLargeAlloc``) ..."""

SEGMENT_MULTIPLE_BYTES = 2 * MIB
"""... which is a multiple of this (``kRoundLarge``)."""


@dataclass(frozen=True, kw_only=True)
class PoolBytes:
    """Three figures of ``torch.cuda.memory_stats``: what tensors asked for, what their blocks take, what the allocator
    took of the device.
    """

    requested_bytes: int = 0
    allocated_bytes: int = 0
    reserved_bytes: int = 0

    def less(self, earlier: PoolBytes) -> PoolBytes:
        """What was added since."""
        return PoolBytes(
            requested_bytes=self.requested_bytes - earlier.requested_bytes,
            allocated_bytes=self.allocated_bytes - earlier.allocated_bytes,
            reserved_bytes=self.reserved_bytes - earlier.reserved_bytes,
        )


@dataclass(kw_only=True)
class FreshPool:
    """An allocator that starts with nothing cached: blocks are taken from it and none is given back.

    Free blocks are the rests of segments. The smallest that holds a request serves it (best fit); its rest is split
    off unless it is below 512 B in the small pool, or at most 1 MiB in the large one: then the whole block counts as
    allocated.
    """

    held: PoolBytes = field(default_factory=PoolBytes)
    _small: list[int] = field(default_factory=list)
    _large: list[int] = field(default_factory=list)

    def allocate(self, requested_bytes: int) -> int:
        """The bytes that the block of a request takes. A request for nothing takes nothing."""
        if not requested_bytes:
            return 0
        wanted = round_up(requested_bytes, MIN_BLOCK_BYTES)
        free = self._small if wanted <= SMALL_BYTES else self._large
        fitting = bisect_left(free, wanted)
        reserved = 0
        if fitting < len(free):
            block = free.pop(fitting)
        else:
            block = reserved = segment_bytes(wanted)
        if splits(block, wanted):
            insort(free, block - wanted)
            block = wanted
        self.held = PoolBytes(
            requested_bytes=self.held.requested_bytes + requested_bytes,
            allocated_bytes=self.held.allocated_bytes + block,
            reserved_bytes=self.held.reserved_bytes + reserved,
        )
        return block


def predict_pool(requests: Iterable[int]) -> PoolBytes:
    """What a sequence of allocations takes, in bytes each, in this order."""
    pool = FreshPool()
    for request in requests:
        pool.allocate(request)
    return pool.held


def segment_bytes(block_bytes: int) -> int:
    """The bytes that the allocator takes of the device where no free block holds ``block_bytes``."""
    if block_bytes <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if block_bytes < OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return round_up(block_bytes, SEGMENT_MULTIPLE_BYTES)


def splits(block_bytes: int, wanted_bytes: int) -> bool:
    """Whether the rest of a block becomes a free block of its own."""
    rest = block_bytes - wanted_bytes
    return rest >= MIN_BLOCK_BYTES if wanted_bytes <= SMALL_BYTES else rest > SMALL_BYTES
