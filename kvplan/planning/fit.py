"""``fit``: will it start on this hardware, what does it hold, and where does every byte go.

One model, one engine and one placement in; a FitResult out. Everything is pure: devices and files are read before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from kvplan.core.budget import BudgetingEngine, BudgetRequest
from kvplan.core.engine import Allocation, Engine, EngineRequest
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.geometry import check_formats, group_kinds, place_layers
from kvplan.core.model import Model, WeightsOnDisk
from kvplan.core.search import largest
from kvplan.core.units import format_count
from kvplan.core.weights import get_weight_format
from kvplan.planning.calibrate import calibrate_budget
from kvplan.planning.request import has_encoder
from kvplan.planning.size import counted_layers, engine_request, split_stages
from kvplan.specs.calibration import Correction

MOST_SEQUENCES = 1 << 20
"""More requests at once are not tried."""

DEFAULT_LONGEST = 1 << 20
"""Contexts are not tried beyond this where the model states no maximum."""


def fit_model(model: Model, request: FitRequest, engine: Engine, correction: Correction | None = None) -> FitResult:
    """What the hardware holds. Raises UsageError or UnsupportedError where the engine cannot be started so at all.

    ``correction`` is what earlier starts on this device taught.
    """
    budget_request = build_budget_request(model, request, engine)
    budgets = cast(BudgetingEngine, engine).budget(budget_request)
    if correction is not None:
        budgets = tuple(calibrate_budget(budget, correction) for budget in budgets)
    asked = budget_request.allocation
    needed = engine.allocate(without_memory(asked))
    available = min(budget.kv_cache.size_bytes for budget in budgets)
    missing = max(budget.missing_bytes for budget in budgets)
    capacity, refusal = (None, None) if missing else _capacity(engine, asked, available)
    each = max(rank.sequence_bytes for rank in needed.stages)
    most = _largest_concurrency(engine, asked, available, available // each if each else None)
    return FitResult(
        model=model,
        request=request,
        engine=engine.name,
        engine_version=engine.version,
        budgets=budgets,
        needed=needed,
        capacity=capacity,
        refusal=refusal,
        missing_bytes=missing,
        available_bytes=available,
        max_context_tokens=0 if missing else _largest_context(engine, asked, available),
        max_concurrency_at_context=most,
        max_num_batched_tokens=asked.settings.max_num_batched_tokens,
        max_num_seqs=asked.settings.max_num_seqs,
        notes=tuple(dict.fromkeys((*model.notes, *request.size.notes, *needed.notes, *_tower_notes(model, request)))),
    )


def _tower_notes(model: Model, request: FitRequest) -> tuple[str, ...]:
    parameters = model.architecture.parameters
    if parameters is None or not parameters.towers or has_encoder(model):
        return ()
    if request.text_only:
        left_out = f"its towers ({format_count(parameters.towers)} parameters) are left out"
        return (f"only text is served, as with image, video and audio inputs limited to 0: {left_out} (--multimodal)",)
    return ("what the engine sets aside for profiling images is not modelled",)


def build_budget_request(model: Model, request: FitRequest, engine: Engine) -> BudgetRequest:
    """The engine's question, with the batch sizes settled. Raises UnsupportedError for engines without a budget."""
    if not hasattr(engine, "budget"):
        raise UnsupportedError(
            f"kvplan does not know what {engine.name} needs besides weights and cache",
            "name the engine that is to be started: --engine vllm",
        )
    size = request.size
    size.parallel.check(model.architecture)
    placed = place_layers(counted_layers(model, size), size.choice.kv_format)
    check_formats(group_kinds(placed, size.choice.policy), size.choice)
    stages = split_stages(placed, size.parallel.pp, len(model.architecture.layers))
    asked = BudgetRequest(
        allocation=engine_request(model, size, stages),
        architecture=model.architecture,
        weights=_weights(model, request),
        weight_format=request.weight_format,
        accelerator=request.accelerator,
        memory_utilization=request.memory_utilization,
        expert_parallel=request.expert_parallel,
        eager=request.eager,
        usage=request.usage,
        text_only=request.text_only,
    )
    return cast(BudgetingEngine, engine).settle(asked)


def _weights(model: Model, request: FitRequest) -> WeightsOnDisk:
    """The files' exact bytes, unless the weights are asked for in another format than theirs."""
    name = request.weight_format.name
    stored = model.weights.weight_format or model.dtype
    return model.weights if get_weight_format(stored).name == name else WeightsOnDisk(weight_format=name)


def without_memory(request: EngineRequest) -> EngineRequest:
    """The same with as much memory as it needs."""
    return replace(request, settings=replace(request.settings, kv_memory_bytes=None))


def with_memory(request: EngineRequest, kv_memory_bytes: int) -> EngineRequest:
    """The same with this much memory for each rank's cache."""
    return replace(request, settings=replace(request.settings, kv_memory_bytes=kv_memory_bytes))


def _capacity(engine: Engine, request: EngineRequest, available: int) -> tuple[Allocation | None, str | None]:
    """What the engine makes of the memory, or the words with which it refuses to start."""
    if not available:
        return None, "no memory is left for the cache"
    try:
        return engine.allocate(with_memory(request, available)), None
    except DoesNotFitError as error:
        return None, error.message


def _largest_context(engine: Engine, request: EngineRequest, available: int) -> int:
    """The longest single request that the engine would start for; 0 where none."""

    def starts(tokens: int) -> bool:
        """Whether the engine starts for requests of this length."""
        settings = replace(request.settings, max_model_len=tokens, kv_memory_bytes=available)
        try:
            engine.allocate(replace(request, context_tokens=tokens, sequences=1, settings=settings))
        except DoesNotFitError:
            return False
        return True

    longest = request.facts.max_context_tokens or DEFAULT_LONGEST
    return largest(starts, longest)


def _largest_concurrency(engine: Engine, request: EngineRequest, available: int, guess: int | None) -> int:
    """Requests of the asked context that one replica holds at once; no more than the engine runs together."""

    def held(sequences: int) -> bool:
        """Whether so many fit; an engine that runs fewer at once refuses."""
        try:
            allocation = engine.allocate(replace(without_memory(request), sequences=sequences))
        except (UnsupportedError, UsageError):
            return False
        return max(rank.allocated_bytes for rank in allocation.stages) <= available

    return largest(held, MOST_SEQUENCES, guess)
