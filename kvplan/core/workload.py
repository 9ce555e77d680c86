"""A workload (requests with their lengths and arrivals), the pool it runs through, and what comes of it."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from kvplan.core.errors import UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.units import cdiv


class Request(NamedTuple):
    """One request. A tuple, for a day has millions of them.

    ``hashes`` name the prompt's blocks of ``Workload.hash_block_tokens`` tokens in order; equal leading ones in two
    requests are a shared prefix. The last may stand for a block that is not full.
    """

    arrival_seconds: float
    prompt_tokens: int
    output_tokens: int
    hashes: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests in the order of their arrival, the first at 0 s, and where they come from.

    ``hash_block_tokens`` are the tokens that one hash stands for (None: the requests have no hashes); ``notes`` say
    what was left out or put in order.
    """

    requests: tuple[Request, ...]
    source: str
    hash_block_tokens: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTerm:
    """What ``count`` equal layer groups take for one request.

    Each takes one block for every ``block_tokens`` tokens held, at most for ``limit_tokens`` (a window; None: without
    limit), and ``fixed_blocks`` whatever the length (recurrent state, an encoder's tokens).
    """

    block_tokens: int
    limit_tokens: int | None = None
    fixed_blocks: int = 0
    count: int = 1

    def blocks(self, tokens: int) -> int:
        """Blocks of these groups for one request that holds ``tokens``."""
        held = tokens if self.limit_tokens is None else min(tokens, self.limit_tokens)
        return self.count * (cdiv(held, self.block_tokens) + self.fixed_blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """The block pool of one replica.

    ``num_blocks`` can be given to requests (vLLM's null block is not among them). A request longer than
    ``max_model_len``, prompt and output together, is rejected, as is one that the whole pool cannot hold.
    """

    num_blocks: int
    growing: tuple[BlockTerm, ...]
    max_num_seqs: int
    max_model_len: int | None = None

    def blocks(self, tokens: int) -> int:
        """Blocks of one request that holds ``tokens`` and shares none."""
        return sum(term.blocks(tokens) for term in self.growing)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSpeed:
    """How fast a replica computes: prompt tokens of all requests a second, and the time of one decode step."""

    prefill_tokens_per_second: float
    decode_seconds_per_token: float

    def __post_init__(self) -> None:
        for name in ("prefill_tokens_per_second", "decode_seconds_per_token"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"{name} must be a positive number, not {value}")

    def step(self, seconds: float) -> int:
        """The first decode step that begins at or after this time."""
        return ceil(seconds / self.decode_seconds_per_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Nearest-rank quantiles, and the mean."""

    p50: float
    p90: float
    p99: float
    peak: float
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a workload does to a pool.

    ``blocks``, ``running`` and ``queued`` are weighted by time; ``queue_seconds`` counts every admitted request's wait
    from arrival to first admission. ``memory_waits`` are the requests that stood first in the queue with a seat free
    and too few blocks, ``memory_wait_seconds`` how long the queue stood still so. ``prefill_busy_ratio`` near 1
    says that requests queue for compute, which no memory cures. ``prefix_hit_ratio`` is the share of prompt tokens
    found in the cache (None without hashes). Rejected are the ``too_long`` for the model, the ``too_large`` for the
    whole pool.
    """

    num_blocks: int
    requests: int
    completed: int
    too_long: int
    too_large: int
    duration_seconds: float
    blocks: Quantiles
    running: Quantiles
    queued: Quantiles
    queue_seconds: Quantiles
    peak_tokens: int
    mean_tokens: float
    preemptions: int
    recomputed_tokens: int
    memory_waits: int
    memory_wait_seconds: float
    prefill_busy_ratio: float
    requests_per_second: float
    prompt_tokens_per_second: float
    output_tokens_per_second: float
    prefix_hit_ratio: float | None

    @property
    def short_of_memory(self) -> bool:
        """Whether any request was rejected, kept waiting or preempted for want of blocks."""
        return bool(self.too_large or self.memory_waits or self.preemptions)
