"""The replay of a workload against a simulator that goes step by step and counts every block of every request."""

from __future__ import annotations

import dataclasses
from math import ceil
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.core.errors import UsageError
from kvplan.core.workload import BlockTerm, PoolShape, ReplayReport, Request, ServingSpeed
from kvplan.planning.replay import ample_blocks, replay

BUDGET = 32
"""Prompt tokens that one step prefills in the tests: a power of two, so that times are exact."""
STEP_SECONDS = 0.5
SPEED = ServingSpeed(prefill_tokens_per_second=BUDGET / STEP_SECONDS, decode_seconds_per_token=STEP_SECONDS)


@dataclasses.dataclass(eq=False)
class Job:
    """A request in the slow simulator."""

    arrived: int
    prompt: int
    output: int
    units: list[tuple[int, ...]]
    decoded: int = 0
    unfilled: int = 0  # prompt tokens still to prefill
    tokens: int = 0  # held
    seen: bool = False
    waited: bool = False


class SlowReplay:
    """Every step, every request, every block: the rules of ``kvplan/planning/replay.py`` and none of its shortcuts."""

    def __init__(self, requests: list[Request], pool: PoolShape, hash_block_tokens: int | None) -> None:
        self.pool = pool
        self.shared_terms = [term for term in pool.growing if term.limit_tokens is None]
        self.unit_tokens = hash_block_tokens if self.shared_terms else None  # tests use multiples of the blocks
        self.cache: dict[tuple[int, ...], tuple[int, int]] = {}  # prefix -> (time released, -depth), unheld ones
        self.running: list[Job] = []
        self.queue: list[Job] = []
        self.future = [(ceil(request.arrival_seconds / STEP_SECONDS), request) for request in requests]
        self.clock = 0
        self.levels: list[int] = []
        self.queued: list[int] = []
        self.tokens: list[int] = []
        self.waits: list[int] = []
        self.preemptions = self.completed = self.too_large = self.memory_waits = self.recomputed = self.hits = 0
        self.starved_steps = 0

    def held_units(self) -> set[tuple[int, ...]]:
        return {unit for job in self.running for unit in job.units}

    def unit_blocks(self) -> int:
        return sum(term.count * (self.unit_tokens or 0) // term.block_tokens for term in self.shared_terms)

    def own_blocks(self, job: Job) -> int:
        """Blocks of a request beside the units that it shares."""
        return self.pool.blocks(job.tokens) - len(job.units) * self.unit_blocks()

    def used(self) -> int:
        return sum(map(self.own_blocks, self.running)) + len(self.held_units()) * self.unit_blocks()

    def evict(self) -> None:
        while self.cache and self.used() + len(self.cache) * self.unit_blocks() > self.pool.num_blocks:
            del self.cache[min(self.cache, key=self.cache.__getitem__)]

    def leave(self, job: Job) -> None:
        self.running.remove(job)
        self.clock += 1
        held = self.held_units()
        for unit in job.units:
            if unit not in held:
                self.cache[unit] = (self.clock, -len(unit))

    def arrive(self, step: int) -> None:
        while self.future and self.future[0][0] <= step:
            _, (_, prompt, output, hashes) = self.future.pop(0)
            if self.pool.blocks(prompt + max(output, 1) - 1) > self.pool.num_blocks:
                self.too_large += 1
                continue
            depth = min((prompt - 1) // self.unit_tokens, len(hashes)) if self.unit_tokens else 0
            units = [tuple(hashes[: index + 1]) for index in range(depth)]
            self.queue.append(Job(step, prompt, max(output, 1), units))

    def grow(self, step: int) -> bool:
        preempted = False
        while True:
            for job in self.running:
                job.tokens += not job.unfilled
            if self.used() <= self.pool.num_blocks:
                return preempted
            for job in self.running:
                job.tokens -= not job.unfilled
            victim = self.running[-1]
            self.leave(victim)
            victim.unfilled = victim.tokens = 0
            self.queue.insert(0, victim)
            self.preemptions += 1
            preempted = True

    def admit(self, budget: int, step: int, preempted: bool) -> bool:
        starved = False
        for job in self.running:
            budget = self.prefill(job, budget)
        while not preempted and self.queue and budget and len(self.running) < self.pool.max_num_seqs:
            job = self.queue[0]
            held, present = self.held_units(), 0
            while present < len(job.units) and (job.units[present] in held or job.units[present] in self.cache):
                present += 1
            job.tokens = job.prompt + job.decoded
            self.running.append(job)
            if self.used() > self.pool.num_blocks:
                self.running.pop()
                self.memory_waits += not job.waited
                starved = job.waited = True
                break
            self.queue.pop(0)
            for unit in job.units:
                self.cache.pop(unit, None)
            self.evict()
            job.unfilled = job.tokens - present * (self.unit_tokens or 0)
            if job.seen:
                self.recomputed += job.unfilled
            else:
                self.waits.append(step - job.arrived)
                self.hits += present * (self.unit_tokens or 0)
            job.seen = True
            budget = self.prefill(job, budget)
        return starved

    def prefill(self, job: Job, budget: int) -> int:
        """Spend budget on a prompt; the step that ends it gives the first token, and other steps one each."""
        if job.unfilled:
            spent = min(job.unfilled, budget)
            job.unfilled -= spent
            job.decoded += not job.unfilled
            return budget - spent
        job.decoded += 1
        return budget

    def run(self) -> SlowReplay:
        step = first = self.future[0][0]
        while self.future or self.running or self.queue:
            for job in [job for job in self.running if job.decoded >= job.output]:
                self.leave(job)
                self.completed += 1
            preempted = self.grow(step)
            self.evict()
            self.arrive(step)
            starved = self.admit(BUDGET, step, preempted)
            self.levels.append(self.used())
            self.queued.append(len(self.queue))
            self.tokens.append(sum(job.tokens for job in self.running))
            self.starved_steps += starved
            step += 1
        self.steps = step - 1 - first
        for record in (self.levels, self.queued, self.tokens):
            record.pop()  # the step after the last request's end
        return self


def quantile(values: list[int], percent: int) -> int:
    return sorted(values)[ceil(percent * len(values) / 100) - 1]


def check(report: ReplayReport, slow: SlowReplay) -> None:
    facts: dict[str, tuple[Any, Any]] = {
        "completed": (report.completed, slow.completed),
        "too_large": (report.too_large, slow.too_large),
        "preemptions": (report.preemptions, slow.preemptions),
        "recomputed_tokens": (report.recomputed_tokens, slow.recomputed),
        "memory_waits": (report.memory_waits, slow.memory_waits),
        "memory_wait_seconds": (report.memory_wait_seconds, slow.starved_steps * STEP_SECONDS),
        "steps": (report.duration_seconds / STEP_SECONDS, max(slow.steps, 1)),
    }
    if slow.waits:
        facts["peak blocks"] = (report.blocks.peak, max(slow.levels))
        facts["mean blocks"] = (report.blocks.mean, pytest.approx(sum(slow.levels) / len(slow.levels)))
        facts["peak tokens"] = (report.peak_tokens, max(slow.tokens))
        facts["mean tokens"] = (report.mean_tokens, pytest.approx(sum(slow.tokens) / len(slow.tokens)))
        facts["queue time"] = (
            report.queue_seconds.mean,
            pytest.approx(STEP_SECONDS * sum(slow.waits) / len(slow.waits)),
        )
        facts["peak queue"] = (report.queued.peak, max(slow.queued))
        for percent in (50, 90, 99):
            facts[f"p{percent} blocks"] = (getattr(report.blocks, f"p{percent}"), quantile(slow.levels, percent))
            facts[f"p{percent} wait"] = (
                getattr(report.queue_seconds, f"p{percent}"),
                STEP_SECONDS * quantile(slow.waits, percent),
            )
    for what, (fast, slow_value) in facts.items():
        assert fast == slow_value, what


TERMS = st.lists(
    st.builds(
        BlockTerm,
        block_tokens=st.sampled_from([4, 8, 16]),
        limit_tokens=st.none() | st.integers(1, 60),
        fixed_blocks=st.integers(0, 2),
        count=st.integers(1, 2),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
REQUESTS = st.lists(
    st.builds(
        Request,
        arrival_seconds=st.integers(0, 400).map(lambda quarter: quarter / 8),
        prompt_tokens=st.integers(1, 120),
        output_tokens=st.integers(0, 60),
        hashes=st.lists(st.integers(0, 2), max_size=7).map(tuple),
    ),
    min_size=1,
    max_size=25,
).map(lambda requests: sorted(requests, key=lambda request: request.arrival_seconds))


@settings(max_examples=60, deadline=None)
@given(requests=REQUESTS, terms=TERMS, num_blocks=st.integers(1, 150), seats=st.integers(1, 12))
def test_replay_equals_a_simulation_of_every_step(
    requests: list[Request], terms: tuple[BlockTerm, ...], num_blocks: int, seats: int
) -> None:
    pool = PoolShape(num_blocks=num_blocks, growing=terms, max_num_seqs=seats)
    check(replay(requests, pool, SPEED), SlowReplay(requests, pool, None).run())


@settings(max_examples=60, deadline=None)
@given(requests=REQUESTS, terms=TERMS, num_blocks=st.integers(1, 150), seats=st.integers(1, 12))
def test_shared_prefixes_equal_a_simulation_of_every_step(
    requests: list[Request], terms: tuple[BlockTerm, ...], num_blocks: int, seats: int
) -> None:
    pool = PoolShape(num_blocks=num_blocks, growing=terms, max_num_seqs=seats)
    report, slow = replay(requests, pool, SPEED, 16), SlowReplay(requests, pool, 16).run()
    check(report, slow)
    prompts = sum(
        job.prompt_tokens
        for job in requests
        if pool.blocks(job.prompt_tokens + max(job.output_tokens, 1) - 1) <= num_blocks
    )
    if slow.shared_terms and prompts:
        assert report.prefix_hit_ratio == slow.hits / prompts


def busy_case(seed: int) -> tuple[list[Request], PoolShape]:
    """A crowded pool: most of these preempt, wait, share and evict."""
    random = Random(seed)
    terms = tuple(
        BlockTerm(
            block_tokens=random.choice([4, 8, 16]),
            limit_tokens=random.choice([None, None, random.randint(1, 60)]),
            fixed_blocks=random.randint(0, 2),
            count=random.randint(1, 2),
        )
        for _ in range(random.randint(1, 3))
    )
    requests = [
        Request(
            random.randint(0, random.choice([80, 400])) / 8,
            random.randint(1, 120),
            random.randint(0, 80),
            tuple(random.choices(range(random.choice([1, 2, 3])), k=random.randint(0, 7))),
        )
        for _ in range(random.choice([20, 40]))
    ]
    pool = PoolShape(num_blocks=random.randint(40, 200), growing=terms, max_num_seqs=random.randint(4, 20))
    return sorted(requests, key=lambda request: request.arrival_seconds), pool


@pytest.mark.parametrize("hash_block_tokens", [None, 16])
def test_crowded_pools_equal_a_simulation_of_every_step(hash_block_tokens: int | None) -> None:
    preempting = 0
    for seed in range(80):
        requests, pool = busy_case(seed)
        report = replay(requests, pool, SPEED, hash_block_tokens)
        check(report, SlowReplay(requests, pool, hash_block_tokens).run())
        preempting += report.preemptions > 0
    assert preempting > 40  # the cases are crowded indeed


def full_pool(num_blocks: int, seats: int = 64) -> PoolShape:
    return PoolShape(num_blocks=num_blocks, growing=(BlockTerm(block_tokens=16),), max_num_seqs=seats)


def test_one_request_takes_a_block_for_every_16_tokens() -> None:
    # 100 prompt tokens: 7 blocks; with 19 of its 20 output tokens written 119: 8. Prefill 100 / 32 steps, so the
    # first token comes after 4 steps and the last after 19 more; the 113th token (13th step of 19) takes block 8.
    report = replay([Request(3.0, 100, 20)], full_pool(8), SPEED)
    assert (report.completed, report.blocks.peak, report.peak_tokens) == (1, 8, 119)
    assert report.duration_seconds == 23 * STEP_SECONDS
    assert report.blocks.mean == pytest.approx((16 * 7 + 7 * 8) / 23)
    assert not report.short_of_memory
    assert report.prefix_hit_ratio is None


def test_a_request_that_the_whole_pool_cannot_hold_is_rejected() -> None:
    report = replay([Request(0.0, 100, 20), Request(0.0, 10, 1)], full_pool(7), SPEED)
    assert (report.too_large, report.too_long, report.completed) == (1, 0, 1)
    assert report.short_of_memory


def test_a_request_beyond_the_longest_length_is_not_the_memorys_fault() -> None:
    pool = dataclasses.replace(full_pool(100), max_model_len=100)
    report = replay([Request(0.0, 90, 11), Request(0.0, 90, 10)], pool, SPEED)
    assert (report.too_large, report.too_long, report.completed) == (0, 1, 1)
    assert not report.short_of_memory


def test_the_latest_admitted_is_preempted_and_prefilled_again() -> None:
    # Two prompts of a full block each; the first decoded token of either takes the third and the fourth block.
    requests = [Request(0.0, 16, 4), Request(0.0, 16, 4)]
    report = replay(requests, full_pool(3), SPEED)
    assert (report.preemptions, report.completed) == (1, 2)
    assert report.recomputed_tokens == 17  # its prompt and the token that its prefill gave


def test_requests_wait_for_a_seat_without_wanting_memory() -> None:
    report = replay([Request(0.0, 16, 8)] * 3, full_pool(100, seats=1), SPEED)
    assert report.queued.peak == 2
    assert report.memory_waits == 0
    assert report.running.peak == 1


def test_a_windowed_group_stops_growing() -> None:
    terms = (BlockTerm(block_tokens=16), BlockTerm(block_tokens=16, limit_tokens=64, fixed_blocks=1, count=5))
    pool = PoolShape(num_blocks=1000, growing=terms, max_num_seqs=1)
    report = replay([Request(0.0, 32, 200)], pool, SPEED)
    assert report.blocks.peak == 15 + 5 * (4 + 1)  # 231 tokens


def test_a_shared_prefix_is_held_once_and_not_prefilled_again() -> None:
    requests = [Request(0.0, 64, 40, (1, 2, 3, 4)), Request(0.0, 64, 40, (1, 2, 3, 5))]
    report = replay(requests, full_pool(100), SPEED, hash_block_tokens=16)
    alone = replay(requests, full_pool(100), SPEED)
    assert report.prefix_hit_ratio == 48 / 128  # three blocks; the last is never shared: its last token is computed
    assert alone.blocks.peak - report.blocks.peak == 3
    assert report.prefill_busy_ratio * report.duration_seconds / STEP_SECONDS == pytest.approx((128 - 48) / BUDGET)


def test_hashes_finer_than_blocks_are_taken_together() -> None:
    # 8-token hashes and 16-token blocks: three equal hashes fill one block
    requests = [Request(0.0, 33, 9, (1, 2, 3, 4)), Request(0.0, 33, 9, (1, 2, 3, 5))]
    assert replay(requests, full_pool(100), SPEED, hash_block_tokens=8).prefix_hit_ratio == 16 / 66


def test_cached_prefixes_are_evicted_least_recently_used_first() -> None:
    # Five blocks: a 33-token prompt takes three. The third request evicts from the first one's two cached blocks.
    one, other = (1, 2), (3, 4)
    requests = [Request(when, 33, 1, keys) for when, keys in ((0.0, one), (10.0, other), (20.0, other), (30.0, one))]
    report = replay(requests, full_pool(5), SPEED, hash_block_tokens=16)
    assert report.prefix_hit_ratio == (32 + 32) / (4 * 33)  # both are kept: two blocks each, and one for the last token
    assert replay(requests, full_pool(4), SPEED, hash_block_tokens=16).prefix_hit_ratio == (32 + 16) / (4 * 33)


@settings(max_examples=40, deadline=None)
@given(requests=REQUESTS, terms=TERMS, seats=st.integers(1, 12))
def test_ample_blocks_are_the_fewest(requests: list[Request], terms: tuple[BlockTerm, ...], seats: int) -> None:
    pool = PoolShape(num_blocks=1, growing=terms, max_num_seqs=seats)
    enough = ample_blocks(tuple(requests), pool, SPEED)
    assert not replay(requests, dataclasses.replace(pool, num_blocks=enough), SPEED).short_of_memory
    assert replay(requests, dataclasses.replace(pool, num_blocks=enough - 1), SPEED).short_of_memory


@settings(max_examples=40, deadline=None)
@given(requests=REQUESTS, terms=TERMS, seats=st.integers(1, 12))
def test_ample_blocks_suffice_with_shared_prefixes(
    requests: list[Request], terms: tuple[BlockTerm, ...], seats: int
) -> None:
    pool = PoolShape(num_blocks=1, growing=terms, max_num_seqs=seats)
    enough = ample_blocks(tuple(requests), pool, SPEED, 16)
    assert not replay(requests, dataclasses.replace(pool, num_blocks=enough), SPEED, 16).short_of_memory


def test_nothing_and_disorder_are_refused() -> None:
    with pytest.raises(UsageError, match="no requests"):
        replay([], full_pool(1), SPEED)
    with pytest.raises(UsageError, match="order"):
        replay([Request(9.0, 1, 1), Request(0.0, 1, 1)], full_pool(1), SPEED)
    with pytest.raises(UsageError, match="positive"):
        ServingSpeed(prefill_tokens_per_second=0, decode_seconds_per_token=1)
