"""What a memory holds: blocks, tokens and concurrency as vLLM logs them, and the check that one request fits.

vLLM 0.32.0 ``v1/core/kv_cache_utils.py:1003-1100``, ``:1195`` and ``:2300-2410``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvplan.core.errors import DoesNotFitError
from kvplan.engines.vllm.groups import Group, checked_bytes, logged_blocks
from kvplan.engines.vllm.run import GIB, Run


class Capacity(NamedTuple):
    """What every rank holds; all ranks hold as many blocks as the fullest stage."""

    num_blocks: int
    tokens: int
    max_concurrency: float
    log_line: str


def request_blocks(groups: Sequence[Group], tokens: int, run: Run) -> int:
    """Blocks of one request of ``tokens``, over all groups."""
    return sum(group.blocks(tokens, run) for group in groups)


def capacity(groups: Sequence[Group], block_bytes: Sequence[int], memory_bytes: int, run: Run) -> Capacity | None:
    """What ``memory_bytes`` on each rank hold; None for a model without a cache. Raises DoesNotFitError.

    ``block_bytes`` are the bytes of one block on each stage.
    """
    largest = max(block_bytes, default=0)
    if not largest:
        return None
    for stage, size in enumerate(block_bytes):
        if size:
            reserved = size if run.rules.null_block_reserved else 0
            check_fits(groups, checked_bytes(groups, stage, run), memory_bytes - reserved, run)
    num_blocks = memory_bytes // largest
    concurrency = num_blocks / logged_blocks(groups, run.max_model_len, run)
    tokens = int(concurrency * run.max_model_len)
    return Capacity(num_blocks, tokens, concurrency, log_line(tokens, concurrency, run))


def log_line(tokens: int, concurrency: float, run: Run) -> str:
    """The line that the engine logs (``update_kv_cache_capacity``); two of them before 0.26."""
    between = ", " if run.rules.one_log_line else "\n"
    return (
        f"GPU KV cache size: {tokens:,} tokens{between}"
        f"Maximum concurrency for {run.max_model_len:,} tokens per request: {concurrency:.2f}x"
    )


def check_fits(groups: Sequence[Group], block_bytes: int, available_bytes: int, run: Run) -> None:
    """Raise DoesNotFitError, in vLLM's words, where one request of the longest length does not fit."""
    if available_bytes <= 0:
        raise DoesNotFitError("No available memory for the cache blocks.", "give more --kv-memory")
    needed = request_blocks(groups, run.max_model_len, run) * block_bytes
    if needed <= available_bytes:
        return
    longest = longest_fitting(
        run.max_model_len, lambda tokens: request_blocks(groups, tokens, run) * block_bytes <= available_bytes
    )
    estimate = f" Based on the available memory, the estimated maximum model length is {longest}." if longest else ""
    raise DoesNotFitError(
        f"To serve at least one request with the model's max seq len ({run.max_model_len}), ({format_gib(needed)} GiB "
        f"KV cache is needed, which is larger than the available KV cache memory ({format_gib(available_bytes)} GiB)."
        + estimate,
        "give more memory, or a shorter --max-model-len",
    )


def longest_fitting(longest: int, fits: Callable[[int], bool]) -> int:
    """The longest request up to ``longest`` that fits, by vLLM's binary search; 0 where not even one token does."""
    if not fits(1):
        return 0
    left, right, found = 1, longest, 1
    while left <= right:
        middle = (left + right) // 2
        if fits(middle):
            found, left = middle, middle + 1
        else:
            right = middle - 1
    return found


def format_gib(size: int) -> str:
    """GiB with two decimals at most, as vLLM prints them (``utils/mem_utils.py``)."""
    return str(round(size / GIB, 2))
