"""What is asked of ``fit``, and what comes out."""

from __future__ import annotations

from fractions import Fraction

from kvplan.core.accelerator import Accelerator
from kvplan.core.budget import RankBudget
from kvplan.core.engine import Allocation
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.core.request import SizeRequest
from kvplan.core.weights import WeightFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """One placement on equal devices: ``size`` holds the context, the concurrency, the format and the parallel sizes.

    ``memory_utilization`` is None for the engine's default; ``expert_parallel`` spreads whole experts over all ranks.
    """

    size: SizeRequest
    accelerator: Accelerator
    weight_format: WeightFormat
    memory_utilization: Fraction | None = None
    expert_parallel: bool = False
    eager: bool = False
    usage: str = "serve"
    text_only: bool = False

    @property
    def num_devices(self) -> int:
        """Devices that the placement takes."""
        parallel = self.size.parallel
        return parallel.tp * parallel.pp * parallel.dp


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The answer. ``budgets`` are the fullest rank of each pipeline stage.

    ``needed`` is the cache that the asked requests need; ``capacity`` what the engine makes of the memory that is
    left (None where it refuses to start, in its ``refusal``); ``max_concurrency_at_context`` counts requests of the
    asked context on one replica.
    """

    model: Model
    request: FitRequest
    engine: str
    engine_version: str | None
    budgets: tuple[RankBudget, ...]
    needed: Allocation
    capacity: Allocation | None
    refusal: str | None
    missing_bytes: int
    available_bytes: int
    max_context_tokens: int
    max_concurrency_at_context: int
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def fullest(self) -> RankBudget:
        """The rank with the least memory left for its cache."""
        return min(self.budgets, key=lambda budget: budget.kv_cache.size_bytes - budget.missing_bytes)

    @property
    def kv_bytes_needed(self) -> int:
        """The cache of the asked requests on the fullest rank."""
        return max(rank.allocated_bytes for rank in self.needed.stages)

    @property
    def starts(self) -> bool:
        """Whether the engine starts at all."""
        return self.capacity is not None

    @property
    def fits(self) -> bool:
        """Whether the engine starts and holds all asked requests at once."""
        sequences = self.request.size.parallel.sequences_per_replica(self.request.size.concurrency)[0]
        return self.starts and self.max_concurrency_at_context >= sequences

    @property
    def max_concurrency(self) -> int:
        """Requests of the asked context that all replicas hold at once."""
        return self.max_concurrency_at_context * self.request.size.parallel.dp
