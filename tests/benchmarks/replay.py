"""How many requests a minute a replay takes on one core. Run it: ``python tests/benchmarks/replay.py [COUNT]``.

Three pools: one that never runs out, one that is short now and then, and one with a windowed group; and a workload of
conversations whose prompts share prefixes. Seconds are CPU seconds of this process, beside the wall clock's.
"""

from __future__ import annotations

import sys
import time
from random import Random

from kvplan.core.workload import BlockTerm, PoolShape, Request, ServingSpeed
from kvplan.planning.distribution import generate
from kvplan.planning.replay import replay

DISTRIBUTION = "prompt=1024:0.9,output=200:1.0"
SPEED = ServingSpeed(prefill_tokens_per_second=40_000, decode_seconds_per_token=0.02)
FULL = (BlockTerm(block_tokens=16),)
WINDOWED = (BlockTerm(block_tokens=16), BlockTerm(block_tokens=16, limit_tokens=1024, fixed_blocks=1, count=5))


def conversations(count: int) -> tuple[Request, ...]:
    """Turns of chats: every prompt repeats the one before and adds to it; blocks of 512 tokens."""
    random, chats, requests, fresh = Random(0), [[] for _ in range(300)], [], 0
    for index in range(count):
        chat = random.choice(chats)
        if len(chat) > 24:
            chat.clear()
        grown = random.randint(1, 4)
        chat += range(fresh, fresh + grown)
        fresh += grown
        requests.append(Request(index / 12, 512 * len(chat) + random.randint(1, 511), random.randint(1, 400), (*chat,)))
    return tuple(requests)


def main() -> None:
    """Print a line for each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    drawn = generate(DISTRIBUTION, rate=18, count=count).requests
    chats = conversations(count // 4)
    cases = {
        "ample pool": (drawn, PoolShape(num_blocks=10**6, growing=FULL, max_num_seqs=1024), None),
        "short pool": (drawn, PoolShape(num_blocks=11_000, growing=FULL, max_num_seqs=1024), None),
        "windows": (drawn, PoolShape(num_blocks=10**6, growing=WINDOWED, max_num_seqs=1024), None),
        "prefixes": (chats, PoolShape(num_blocks=90_000, growing=FULL, max_num_seqs=1024), 512),
    }
    for name, (requests, pool, hash_block_tokens) in cases.items():
        wall, cpu = time.perf_counter(), time.process_time()
        report = replay(requests, pool, SPEED, hash_block_tokens)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rate = len(requests) * 60 / cpu
        print(
            f"{name}: {len(requests):,} requests in {cpu:.1f} s CPU ({wall:.1f} s): {rate / 1e6:.2f} million a minute; "
            f"peak {report.blocks.peak:,} blocks, {report.preemptions:,} preemptions, {report.memory_waits:,} waits "
            f"for memory, prefill busy {report.prefill_busy_ratio:.0%}, hits {report.prefix_hit_ratio or 0:.0%}"
        )


if __name__ == "__main__":
    main()
