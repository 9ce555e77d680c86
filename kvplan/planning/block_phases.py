"""The blocks that running requests are about to take, without looking at the requests.

All grow by one token in every step, so those that cross a block boundary in a step are told by the step's number
modulo the block size. Counts by that phase give the blocks of any stretch of steps.
"""

from __future__ import annotations

from collections import Counter
from math import lcm

from kvplan.core.workload import PoolShape
from kvplan.planning.prefix_tree import Keys, PrefixNode


class RunningRequest:
    """One request and, while it runs, its place in time: first token at step ``first``, gone at step ``end``."""

    __slots__ = (
        "arrived",
        "end",
        "first",
        "keys",
        "node",
        "prefill",
        "serial",
        "shared",
        "to_decode",
        "tokens",
        "waited",
    )

    def __init__(self, arrived: int, tokens: int, to_decode: int, keys: Keys) -> None:
        self.arrived = arrived
        self.tokens = tokens  # held once prefilled
        self.to_decode = to_decode  # tokens still to come, the first included
        self.keys = keys
        self.serial = 0  # of the admission, -1 while not running
        self.first = self.end = 0
        self.prefill = 0.0
        self.shared = 0
        self.waited = False  # for blocks, at the head of the queue
        self.node: PrefixNode | None = None

    def held(self, step: int) -> int:
        """Tokens held before ``step``."""
        return self.tokens + max(0, step - self.first)


class BlockPhases:
    """Blocks that running requests will take, by step modulo ``period``."""

    def __init__(self, pool: PoolShape) -> None:
        weights: Counter[tuple[int, int | None]] = Counter()
        for term in pool.growing:
            weights[term.block_tokens, term.limit_tokens] += term.count
        self.terms = tuple((block, limit, count) for (block, limit), count in weights.items())
        self.period = lcm(*(block for block, _, _ in self.terms)) if self.terms else 1
        self.blocks = [0] * self.period

    def add(self, term: int, sequence: RunningRequest, sign: int) -> None:
        """Let a sequence grow in one term from now on (``sign`` 1), or no longer (-1)."""
        block, _, count = self.terms[term]
        for phase in range((sequence.first - sequence.tokens) % block, self.period, block):
            self.blocks[phase] += sign * count

    def grows(self, term: int, sequence: RunningRequest, step: int) -> bool:
        """Whether a term still grows after a step, limits considered."""
        limit = self.terms[term][1]
        return limit is None or sequence.tokens + step - sequence.first < limit

    def stretch(self, step: int, steps: int) -> list[int]:
        """Blocks taken in each of so many steps from ``step`` on."""
        at = step % self.period
        if at + steps <= self.period:
            return self.blocks[at : at + steps]
        turned = self.blocks[at:] + self.blocks[:at]
        return turned * (steps // self.period) + turned[: steps % self.period]
