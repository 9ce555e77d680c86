"""How many blocks of a layer group one request takes as it grows, for replaying workloads."""

from __future__ import annotations

from kvplan.core.search import last_true
from kvplan.core.units import MAX_TOKENS
from kvplan.core.workload import BlockTerm
from kvplan.engines.vllm.groups import Group
from kvplan.engines.vllm.run import Run


def block_term(group: Group, run: Run) -> BlockTerm:
    """The term of one group, read off its own rule: it grows by one block in ``block_tokens``, or has its most."""
    first, most = group.blocks(1, run), group.blocks(MAX_TOKENS, run)
    block_tokens = _block_tokens(group, first, run)
    if block_tokens is None:
        return BlockTerm(block_tokens=1, limit_tokens=0, fixed_blocks=first)
    grows_on = group.blocks(MAX_TOKENS // 2, run) < most
    fixed = first - 1
    return BlockTerm(
        block_tokens=block_tokens,
        limit_tokens=None if grows_on else (most - fixed) * block_tokens,
        fixed_blocks=fixed,
    )


def _block_tokens(group: Group, first: int, run: Run) -> int | None:
    """The longest request that takes no more blocks than one token does; None where no request ever does."""
    return last_true(lambda tokens: group.blocks(max(tokens, 1), run) == first)
