"""Where the memory of a rank goes: the question that an engine answers before it starts, and its answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineRequest
from kvplan.core.errors import UnsupportedError
from kvplan.core.estimated_widths import estimate_widths
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture, WeightsOnDisk
from kvplan.core.overhead import Forward, Overhead, estimate_forward
from kvplan.core.units import GIB, MIB, format_bytes
from kvplan.core.weight_shards import RankWeights, WeightSpread, shard_weights
from kvplan.core.weights import WeightFormat, get_weight_format

CONTEXT_BYTES = 522 * MIB
"""Taken on a GPU before any weights: 139.80 - 139.29 GiB on an H200, driver 580 (read by vLLM 0.25.1)."""

LIBRARY_BYTES, LIBRARY_ERROR_BYTES = 225 * MIB, 256 * MIB
"""Taken by libraries and kernels after that (measured in the same start-ups), and by how much others may differ."""

COMMUNICATION_BYTES, COMMUNICATION_ERROR_BYTES = GIB, 3 * GIB // 4
"""Buffers of NCCL and all-reduce kernels with several ranks: an estimate."""

WEIGHTS_ERROR = {"exact": Fraction(0), "rule": Fraction(1, 200), "estimate": Fraction(3, 100)}
"""Share by which weights may be off. Loading figures of vLLM 0.25.1 are within the second; mixtures of formats differ
by a few percent (``core/weight_table.py``)."""


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


def loaded_weights(request: BudgetRequest, spread: WeightSpread) -> tuple[RankWeights, ...]:
    """The weights of a rank of each stage. Raises UnsupportedError where the model states nothing of them."""
    found = shard_weights(request.architecture, request.weights, request.weight_format, spread)
    if found is None:
        raise UnsupportedError(
            "the spec states no parameter counts, so what is left for the cache is not known",
            "use the model's config.json, or give --kv-memory to kvplan size",
        )
    return found


def weights_line(weights: RankWeights, besides_bytes: int = 0) -> BudgetLine:
    """A rank's weights, with what the engine holds besides the checkpoint's parameters."""
    held = weights.bytes + besides_bytes
    return BudgetLine(
        size_bytes=held, certainty=weights.certainty, error_bytes=int(held * WEIGHTS_ERROR[weights.certainty])
    )


def weights_words(weights: RankWeights) -> tuple[str, ...]:
    """A line for each part of a rank's weights."""
    return tuple(f"weights, {words}: {format_bytes(size)}" for words, size in weights.lines)


def forward_overhead(request: BudgetRequest, stage: int, tokens: int, logit_rows: int) -> Overhead:
    """The activations of a forward pass of ``tokens`` on a rank of a stage: an estimate (``estimate_forward``)."""
    architecture, allocation = request.architecture, request.allocation
    is_last = stage == len(allocation.stages) - 1
    kinds = dict.fromkeys(item.kind for layer in allocation.stages[stage] for item in layer)
    return estimate_forward(
        Forward(
            hidden_size=architecture.hidden_size,
            num_heads=architecture.num_heads or 1,
            widths=architecture.widths or estimate_widths(architecture),
            kinds=tuple(kinds),
            tokens=tokens,
            logit_rows=logit_rows if is_last else 0,
            tp=allocation.parallel.tp,
            guessed=architecture.widths is None,
        )
    )


def activation_line(found: Overhead) -> BudgetLine:
    """The activations of an overhead, with its error."""
    return BudgetLine(
        size_bytes=found.activation_bytes, certainty=found.certainty, error_bytes=found.expected_error_bytes
    )


def compose_budget(
    request: BudgetRequest,
    weights: RankWeights,
    found: Overhead,
    runtime: BudgetLine,
    requested_bytes: int | None = None,
    words: Iterable[str] = (),
) -> RankBudget:
    """A rank of an engine that sets nothing aside for CUDA graphs; it takes the whole device unless told otherwise."""
    memory = request.accelerator.memory_bytes
    return RankBudget(
        memory_bytes=memory,
        requested_bytes=memory if requested_bytes is None else requested_bytes,
        weights=weights_line(weights),
        activation=activation_line(found),
        cuda_graph=BudgetLine(size_bytes=0, certainty="rule"),
        non_torch=runtime,
        explanation=(*words, *weights_words(weights), *found.lines),
    )


def refuse_utilization(request: BudgetRequest, engine: str) -> None:
    """Raise UnsupportedError where a fraction of the memory is given to an engine that takes none."""
    if request.memory_utilization is not None:
        raise UnsupportedError(
            f"{engine} takes no fraction of the memory", "leave --gpu-memory-utilization out, or give --gpu-memory"
        )


def expand_weights(request: BudgetRequest) -> BudgetRequest:
    """The request with its weights in 16 bits, for engines that expand a format when they load it."""
    return replace(request, weight_format=get_weight_format(request.allocation.facts.dtype), weights=WeightsOnDisk())


def runtime_line(num_ranks: int) -> BudgetLine:
    """Context, libraries and, with several ranks, communication on one GPU: measured on an H200, an estimate here."""
    several = num_ranks > 1
    return BudgetLine(
        size_bytes=CONTEXT_BYTES + LIBRARY_BYTES + COMMUNICATION_BYTES * several,
        certainty="estimate",
        error_bytes=LIBRARY_ERROR_BYTES + COMMUNICATION_ERROR_BYTES * several,
    )


def runtime_words(line: BudgetLine) -> str:
    """The line in words."""
    return (
        f"driver, libraries and communication: about {format_bytes(line.size_bytes)} ± "
        f"{format_bytes(line.error_bytes)} (measured on an H200 at tp 1; no engine states a rule)"
    )
