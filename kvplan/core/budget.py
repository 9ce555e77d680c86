"""Where the memory of a rank goes: the question that an engine answers before it starts, and its answer."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineRequest
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture, WeightsOnDisk
from kvplan.core.weights import WeightFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRequest:
    """One start of an engine on equal devices.

    ``memory_utilization`` is the engine's own fraction (``gpu_memory_utilization``, ``mem_fraction_static``, …); None
    is the engine's default. ``usage`` is ``serve`` or ``llm`` (vLLM's offline class has larger batches).
    """

    allocation: EngineRequest
    architecture: Architecture
    weights: WeightsOnDisk
    weight_format: WeightFormat
    accelerator: Accelerator
    memory_utilization: Fraction | None = None
    expert_parallel: bool = False
    eager: bool = False
    usage: str = "serve"
    text_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLine:
    """One share of a rank's memory, how it is known (``exact``, ``rule``, ``estimate``) and its expected error."""

    size_bytes: int
    certainty: str
    error_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBudget:
    """The memory of the fullest rank of one pipeline stage.

    ``requested_bytes`` is what the engine takes of ``memory_bytes``; ``kv_cache`` is what is left of it for the cache
    (0 where nothing is left); ``missing_bytes`` is by how much the rest exceeds it. ``explanation`` are equations.
    """

    memory_bytes: int
    requested_bytes: int
    weights: BudgetLine
    activation: BudgetLine
    cuda_graph: BudgetLine
    non_torch: BudgetLine
    explanation: tuple[str, ...] = ()

    @property
    def _rest(self) -> int:
        held = (self.weights, self.activation, self.cuda_graph, self.non_torch)
        return self.requested_bytes - sum(line.size_bytes for line in held)

    @property
    def kv_cache(self) -> BudgetLine:
        """What is left for the cache; its errors are those of all other lines."""
        lines = (self.weights, self.activation, self.cuda_graph, self.non_torch)
        certainty = "rule" if all(line.certainty in ("exact", "rule") for line in lines) else "estimate"
        return BudgetLine(
            size_bytes=max(0, self._rest), certainty=certainty, error_bytes=sum(line.error_bytes for line in lines)
        )

    @property
    def missing_bytes(self) -> int:
        """By how much weights and overhead exceed what the engine takes; 0 where they fit."""
        return max(0, -self._rest)

    @property
    def unused_bytes(self) -> int:
        """What the engine leaves alone."""
        return self.memory_bytes - self.requested_bytes


class BudgetingEngine(Protocol):
    """An engine that knows where a rank's memory goes when it starts."""

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request with the batch sizes that the engine resolves for its device."""
        ...

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """The fullest rank of each stage. Raises UnsupportedError where the engine's rules do not cover the model."""
        ...
