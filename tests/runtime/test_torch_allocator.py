"""torch's CUDA caching allocator as modelled: vectors by hand from ``c10/cuda/CUDACachingAllocator.cpp``, and laws."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kvplan.runtime.verify.device_memory import pool_bytes, unpredictable  # noqa: E402
from kvplan.runtime.verify.torch_allocator import PoolBytes, predict_pool  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20

VECTORS = {
    # requests -> allocated, reserved
    "nothing takes nothing": ([0], 0, 0),
    "one byte takes a block of 512 in a segment of 2 MiB": ([1], 512, 2 * MIB),
    "513 bytes take two times 512": ([513], 1024, 2 * MIB),
    "small blocks share a segment": ([1 * KIB] * 2048, 2 * MIB, 2 * MIB),
    "a full small segment needs another": ([1 * KIB] * 2049, 2 * MIB + 1 * KIB, 4 * MIB),
    "1 MiB is small: two in a segment": ([MIB, MIB], 2 * MIB, 2 * MIB),
    "1 MiB and a byte is large: 20 MiB": ([MIB + 1], MIB + 512, 20 * MIB),
    "small and large do not share": ([MIB, MIB + 512], 2 * MIB + 512, 22 * MIB),
    "below 10 MiB shares 20 MiB": ([9 * MIB, 9 * MIB], 18 * MIB, 20 * MIB),
    "three of 7 MiB take two segments": ([7 * MIB] * 3, 21 * MIB, 40 * MIB),
    "10 MiB has a segment of its own": ([10 * MIB, 10 * MIB], 20 * MIB, 20 * MIB),
    # 11 MiB + 512 B in a segment of 12 MiB: the rest is below 1 MiB, stays unsplit and counts as allocated
    "own segments are multiples of 2 MiB and keep a small rest": ([11 * MIB + 512], 12 * MIB, 12 * MIB),
    "a rest of exactly 1 MiB stays unsplit": ([11 * MIB], 12 * MIB, 12 * MIB),
    # 10 MiB + 512 B in 12 MiB: the rest is 2 MiB - 512 B, is split off and serves 1.5 MiB, whose rest stays unsplit
    "a larger rest serves a later request": (
        [10 * MIB + 512, MIB + MIB // 2],
        10 * MIB + 512 + (2 * MIB - 512),
        12 * MIB,
    ),
    # rests: 2 MiB (of 18 in 20), then 20 - 9 - 9.5 = 1.5 MiB: the smaller one that holds 1.25 MiB serves it whole
    "the smallest free block that fits is taken": (
        [18 * MIB // 2, 9 * MIB, 9 * MIB, 9 * MIB + MIB // 2, MIB + MIB // 4],
        18 * MIB + 18 * MIB + MIB // 2 + MIB + MIB // 2,
        40 * MIB,
    ),
    "a rest of exactly 512 bytes is split off": ([MIB - 512, MIB], 2 * MIB - 512, 2 * MIB),
}


@pytest.mark.parametrize("name", VECTORS)
def test_an_allocation_by_hand(name: str) -> None:
    requests, allocated, reserved = VECTORS[name]
    expected = PoolBytes(requested_bytes=sum(requests), allocated_bytes=allocated, reserved_bytes=reserved)
    assert predict_pool(requests) == expected


@given(st.lists(st.integers(0, 40 * MIB), max_size=60))
def test_requested_is_at_most_allocated_and_that_at_most_reserved(requests: list[int]) -> None:
    found = predict_pool(requests)
    assert found.requested_bytes <= found.allocated_bytes <= found.reserved_bytes
    assert found.allocated_bytes % 512 == 0
    assert found.reserved_bytes % (2 * MIB) == 0
    # a block keeps at most 1 MiB that it did not ask for, and 511 bytes of rounding
    assert found.allocated_bytes <= found.requested_bytes + len(requests) * (MIB + 511)


def found_on_a_gpu(name: str) -> PoolBytes:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    assert unpredictable(device) is None
    before = pool_bytes(device)
    held = [torch.empty(size, dtype=torch.uint8, device=device) for size in VECTORS[name][0]]
    found = pool_bytes(device).less(before)
    del held
    return found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", VECTORS)
def test_torch_itself_allocates_so(name: str, fresh_process: ProcessPoolExecutor) -> None:
    assert fresh_process.submit(found_on_a_gpu, name).result() == predict_pool(VECTORS[name][0])
