"""Requests replayed through a block pool: how full it gets, who waits, who is preempted, and how many blocks end that.

Time runs in decode steps, as an engine with continuous batching does: in every step each running request gains one
token, requests end and are admitted between steps. A step lasts ``decode_seconds_per_token`` whatever the batch, and
prompts are prefilled beside it, one after the other at ``prefill_tokens_per_second``; the given speeds are the
model's one approximation. Within it every block is counted in every step. The rules are those of vLLM's scheduler
(0.32, ``v1/core/sched/scheduler.py``): first come first served; a request is admitted when there is a seat, room in
the step for prefill, and blocks for its whole prompt; when a running request needs a block and none is free, the
latest admitted are preempted, give up everything, go to the head of the queue and are prefilled again with what they
had decoded; nobody is admitted in a step that preempted. Hashed prompt blocks are shared in groups without a window.

Nothing happens step by step, though. All requests grow in lockstep, so those that cross a block boundary in a step
are told by the step's number modulo the block size: counts by that phase give the blocks of any stretch of steps
without looking at requests, and only arrivals, starts, ends and shortages are events.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from itertools import accumulate
from math import ceil, lcm

from kvplan.core.errors import UsageError
from kvplan.core.workload import PoolShape, Quantiles, ReplayReport, Request, ServingSpeed
from kvplan.planning.block_phases import BlockPhases, RunningRequest
from kvplan.planning.prefix_tree import Keys, PrefixTree

_ENDS = 2**30
"""Sorts the end of a request after the last of its windows."""
_MAX_TRIALS = 24


def replay(
    requests: Iterable[Request], pool: PoolShape, speed: ServingSpeed, hash_block_tokens: int | None = None
) -> ReplayReport:
    """Run requests, in the order of their arrival, through a pool. Raises UsageError where there are none.

    ``hash_block_tokens`` is the ``Workload``'s; without it prefixes are not shared.
    """
    run = _Replay(pool, speed, hash_block_tokens)
    run.run(requests)
    return run.report()


def ample_blocks(
    requests: tuple[Request, ...], pool: PoolShape, speed: ServingSpeed, hash_block_tokens: int | None = None
) -> int:
    """The fewest blocks with which no request is rejected, preempted or kept waiting for want of memory.

    Without shared prefixes a pool as large as an endless one gets full behaves alike, and a smaller one cannot. With
    them a smaller pool also evicts, which slows prefill: from there upwards the number is found by bisection, and a
    lucky smaller one may exist.
    """
    endless = replace(pool, num_blocks=sum(pool.blocks(_most_tokens(request)) for request in requests) + 1)
    enough = int(replay(requests, endless, speed, hash_block_tokens).blocks.peak)
    if hash_block_tokens is None:
        return enough

    def suffices(num_blocks: int) -> bool:
        """Whether a pool of so many blocks leaves nothing waiting for memory."""
        run = _Replay(replace(pool, num_blocks=num_blocks), speed, hash_block_tokens, give_up=True)
        run.run(requests)
        return not run.short

    scant, step = enough - 1, max(1, enough // 64)
    while not suffices(enough):
        scant, enough, step = enough, enough + step, 2 * step
    for _ in range(_MAX_TRIALS):
        middle = (scant + enough) // 2
        if middle == scant:
            break
        scant, enough = (scant, middle) if suffices(middle) else (middle, enough)
    return enough


def _most_tokens(request: Request) -> int:
    """Tokens that a request holds in its last step: its last output token is never written."""
    return request.prompt_tokens + max(request.output_tokens, 1) - 1


class _Replay:
    """The state of a pool in one step, and the sums that the report is made of."""

    def __init__(
        self, pool: PoolShape, speed: ServingSpeed, hash_block_tokens: int | None, give_up: bool = False
    ) -> None:
        self.pool, self.speed, self.give_up = pool, speed, give_up
        self.capacity = pool.num_blocks
        self.phases = BlockPhases(pool)
        self.prefill_steps_per_token = 1 / (speed.prefill_tokens_per_second * speed.decode_seconds_per_token)
        self.tree, self.unit_tokens, self.unit_hashes, self.unit_blocks = _sharing(pool, hash_block_tokens)
        self.now, self.used, self.tokens, self.decoding = 0, 0, 0, 0
        self.prefill_free = 0.0
        self.serial = 0
        self.queue: deque[RunningRequest] = deque()
        self.running: dict[int, RunningRequest] = {}
        self.starts: deque[tuple[int, RunningRequest, int]] = deque()
        self.ends: list[tuple[int, int, int, RunningRequest]] = []
        self.blocked = self.starved = False
        self.block_steps: Counter[int] = Counter()
        self.running_steps: Counter[int] = Counter()
        self.queued_steps: Counter[int] = Counter()
        self.waits: Counter[int] = Counter()
        self.first_step = self.requests = self.too_long = self.too_large = self.completed = self.preemptions = 0
        self.recomputed = self.memory_waits = self.starved_steps = self.peak_tokens = self.token_steps = 0
        self.prompt_tokens = self.output_tokens = self.hit_tokens = 0
        self.prefill_steps = 0.0

    @property
    def short(self) -> bool:
        """Whether memory has been wanting."""
        return bool(self.too_large or self.preemptions or self.memory_waits)

    def run(self, requests: Iterable[Request]) -> None:
        """Serve all requests, or up to the first shortage. Raises UsageError on none, or on disordered arrivals."""
        arrivals = iter(requests)
        request = next(arrivals, None)
        if request is None:
            raise UsageError("there are no requests to replay")
        to_step = self.speed.step
        arrived = to_step(request.arrival_seconds)
        self.now = self.first_step = arrived
        while request is not None or self.running or self.queue:
            step = self._advance(self._next_event(arrived if request is not None else None))
            self._finish(step)
            self._start(step)
            preempted = self._grow(step)
            while request is not None and arrived <= step:
                self._arrive(request, arrived)
                request = next(arrivals, None)
                if request is not None:
                    previous, arrived = arrived, to_step(request.arrival_seconds)
                    if arrived < previous:
                        raise UsageError("requests are not in the order of their arrival")
            if not preempted:
                self._admit(step)
            if self.give_up and self.short:
                return

    def _next_event(self, arrived: int | None) -> int:
        """The next step in which more may happen than growth."""
        events = [] if arrived is None else [arrived]
        if self.ends:
            events.append(self.ends[0][0])
        if self.starts:
            events.append(self.starts[0][0])
        if self.queue and not self.blocked:
            events.append(max(self.now + 1, int(self.prefill_free)))
        return min(events)

    def _advance(self, step: int) -> int:
        """Account for the steps from the last event up to ``step``, or up to the one for which blocks run out."""
        steps = step - self.now
        if steps < 1:
            return step
        if self.decoding and steps > 1:
            levels = [*accumulate(self.phases.stretch(self.now + 1, steps - 1), initial=self.used)]
            if levels[-1] > self.capacity:
                steps = bisect_right(levels, self.capacity)
                del levels[steps:]
            self.block_steps.update(levels)
            self.used = levels[-1]
            if self.tree is not None:
                self._evict()
        else:
            self.block_steps[self.used] += steps
        self.running_steps[len(self.running)] += steps
        self.queued_steps[len(self.queue)] += steps
        if self.starved:
            self.starved_steps += steps
        self.token_steps += steps * self.tokens + self.decoding * (steps * (steps - 1) // 2)
        self.tokens += self.decoding * (steps - 1)
        if self.tokens > self.peak_tokens:
            self.peak_tokens = self.tokens
        self.now += steps
        return self.now

    def _finish(self, step: int) -> None:
        """Let go those whose last token is out, and stop what has reached its window."""
        ends = self.ends
        while ends and ends[0][0] == step:
            _, serial, term, sequence = heappop(ends)
            if sequence.serial != serial:
                continue  # preempted since
            if term == _ENDS:
                self.completed += 1
                self._leave(sequence, step)
            else:
                self.phases.add(term, sequence, -1)

    def _start(self, step: int) -> None:
        """Let those grow whose prefill is over."""
        while self.starts and self.starts[0][0] == step:
            _, sequence, serial = self.starts.popleft()
            self.decoding += 1
            for term, (_, limit, _) in enumerate(self.phases.terms):
                if self.phases.grows(term, sequence, step):
                    self.phases.add(term, sequence, 1)
                    if limit is not None:
                        heappush(self.ends, (step + limit - sequence.tokens, serial, term, sequence))

    def _grow(self, step: int) -> bool:
        """Give every running request its next token, preempting from the latest until blocks suffice."""
        phase = step % self.phases.period
        preempted = False
        while self.used + self.phases.blocks[phase] > self.capacity:
            self._preempt(step)
            preempted = True
        self.used += self.phases.blocks[phase]
        self.tokens += self.decoding
        if self.tree is not None:
            self._evict()
        return preempted

    def _preempt(self, step: int) -> None:
        """Put the latest admitted request back at the head of the queue, without anything."""
        sequence = self.running[next(reversed(self.running))]
        decoded = 0
        if sequence.first > step:  # in the middle of its prefill
            if sequence.end > sequence.first:
                self.starts.pop()
            free = max(float(step), sequence.prefill)
            self.prefill_steps -= self.prefill_free - free
            self.prefill_free = free
        else:
            decoded = step - sequence.first + 1
        self._leave(sequence, step)
        self.preemptions += 1
        sequence.tokens += decoded
        sequence.to_decode -= decoded
        self.queue.appendleft(sequence)

    def _leave(self, sequence: RunningRequest, step: int) -> None:
        """Free what a running request holds."""
        del self.running[sequence.serial]
        if sequence.first <= step and sequence.end > sequence.first:
            self.decoding -= 1
            for term in range(len(self.phases.terms)):
                if self.phases.grows(term, sequence, step):
                    self.phases.add(term, sequence, -1)
        sequence.serial = -1
        tokens = sequence.held(step)
        self.tokens -= tokens
        self.used -= self.pool.blocks(tokens) - sequence.shared * self.unit_blocks
        if self.tree is not None and sequence.node is not None:
            active = self.tree.active_units
            self.tree.release(sequence.node)
            self.used -= (active - self.tree.active_units) * self.unit_blocks
            sequence.node = None
        self.blocked = self.starved = False

    def _arrive(self, request: Request, step: int) -> None:
        """Queue a request, or reject what can never be served."""
        self.requests += 1
        longest = self.pool.max_model_len
        if longest is not None and request.prompt_tokens + request.output_tokens > longest:
            self.too_long += 1
            return
        if self.pool.blocks(_most_tokens(request)) > self.capacity:
            self.too_large += 1
            return
        keys = self._keys(request) if self.tree is not None else ()
        self.queue.append(RunningRequest(step, request.prompt_tokens, max(request.output_tokens, 1), keys))
        self.prompt_tokens += request.prompt_tokens
        self.output_tokens += request.output_tokens

    def _keys(self, request: Request) -> Keys:
        """The units of a prompt that can be shared: whole ones before its last token, which is always computed."""
        units = min((request.prompt_tokens - 1) // self.unit_tokens, len(request.hashes) // self.unit_hashes)
        if self.unit_hashes == 1:
            return request.hashes[:units]
        return tuple(zip(*[iter(request.hashes[: units * self.unit_hashes])] * self.unit_hashes))

    def _admit(self, step: int) -> None:
        """Admit from the head of the queue while there are seats, prefill and blocks in this step."""
        while self.queue and not self.blocked and self.prefill_free < step + 1:
            if len(self.running) >= self.pool.max_num_seqs:
                self.blocked = True
            elif self._place(self.queue[0], step):
                self.queue.popleft()
            else:
                self.memory_waits += not self.queue[0].waited
                self.queue[0].waited = self.blocked = self.starved = True

    def _place(self, sequence: RunningRequest, step: int) -> bool:
        """Give a request the blocks of its prompt and start its prefill, if they are there."""
        need = self.pool.blocks(sequence.tokens)
        present = active = shared = 0
        if self.tree is not None and sequence.keys:
            shared = len(sequence.keys)
            present, active = self.tree.match(sequence.keys)
        if self.used + need - active * self.unit_blocks > self.capacity:
            return False
        self.used += need - active * self.unit_blocks
        if self.tree is not None:
            sequence.node = self.tree.hold(sequence.keys) if shared else None
            self._evict()
        sequence.shared = shared
        fresh = sequence.tokens - present * self.unit_tokens
        if sequence.serial == 0:
            self.waits[step - sequence.arrived] += 1
            self.hit_tokens += present * self.unit_tokens
        else:
            self.recomputed += fresh
        self._schedule(sequence, step, fresh * self.prefill_steps_per_token)
        return True

    def _schedule(self, sequence: RunningRequest, step: int, prefill_steps: float) -> None:
        """Put an admitted request's start and end on the calendar."""
        self.serial += 1
        sequence.serial = self.serial
        sequence.prefill = max(self.prefill_free, float(step))
        self.prefill_free = sequence.prefill + prefill_steps
        self.prefill_steps += prefill_steps
        sequence.first = max(ceil(self.prefill_free), step + 1)
        sequence.end = sequence.first + sequence.to_decode - 1
        self.running[self.serial] = sequence
        self.tokens += sequence.tokens
        heappush(self.ends, (sequence.end, self.serial, _ENDS, sequence))
        if sequence.end > sequence.first:
            self.starts.append((sequence.first, sequence, self.serial))

    def _evict(self) -> None:
        """Drop cached units that the pool has no room for beside what is held."""
        tree = self.tree
        assert tree is not None, "nothing is cached without a tree"
        over = self.used + tree.cached_units * self.unit_blocks - self.capacity
        if over > 0:
            tree.evict(-(-over // self.unit_blocks))

    def report(self) -> ReplayReport:
        """What has been seen."""
        step_seconds = self.speed.decode_seconds_per_token
        steps = max(self.now - self.first_step, 1)
        seconds = steps * step_seconds
        return ReplayReport(
            num_blocks=self.capacity,
            requests=self.requests,
            completed=self.completed,
            too_long=self.too_long,
            too_large=self.too_large,
            duration_seconds=seconds,
            blocks=_quantiles(self.block_steps),
            running=_quantiles(self.running_steps),
            queued=_quantiles(self.queued_steps),
            queue_seconds=_quantiles(self.waits, step_seconds),
            peak_tokens=self.peak_tokens,
            mean_tokens=self.token_steps / steps,
            preemptions=self.preemptions,
            recomputed_tokens=self.recomputed,
            memory_waits=self.memory_waits,
            memory_wait_seconds=self.starved_steps * step_seconds,
            prefill_busy_ratio=self.prefill_steps / steps,
            requests_per_second=self.completed / seconds,
            prompt_tokens_per_second=self.prompt_tokens / seconds,
            output_tokens_per_second=self.output_tokens / seconds,
            prefix_hit_ratio=self.hit_tokens / self.prompt_tokens
            if self.tree is not None and self.prompt_tokens
            else None,
        )


def _sharing(pool: PoolShape, hash_block_tokens: int | None) -> tuple[PrefixTree | None, int, int, int]:
    """A tree for shared prompts, and a unit's tokens, hashes and blocks; no tree where nothing can be shared.

    A unit fills whole blocks of every group without a window; groups with one keep their blocks to themselves.
    """
    shared = [term for term in pool.growing if term.limit_tokens is None]
    if hash_block_tokens is None or not shared:
        return None, 1, 1, 0
    tokens = lcm(hash_block_tokens, *(term.block_tokens for term in shared))
    blocks = sum(term.count * (tokens // term.block_tokens) for term in shared)
    return PrefixTree(), tokens, tokens // hash_block_tokens, blocks


def _quantiles(weights: Mapping[int, int], unit: float = 1) -> Quantiles:
    """Nearest-rank quantiles of values with weights, times ``unit``; all 0 where there is no value."""
    values = sorted(weights)
    ranks = list(accumulate(weights[value] for value in values))
    if not values:
        return Quantiles(p50=0, p90=0, p99=0, peak=0, mean=0)

    def rank(percent: int) -> float:
        """The value of the nearest rank."""
        return values[bisect_left(ranks, -(-percent * ranks[-1] // 100))] * unit

    mean = sum(value * weight for value, weight in weights.items()) / ranks[-1]
    return Quantiles(p50=rank(50), p90=rank(90), p99=rank(99), peak=values[-1] * unit, mean=mean * unit)
