"""The decode roofline of a fit: how long a step takes on its devices with its cache, and from where a smaller one pays.

Everything here is an estimate, and None where the accelerator's figures or the kernel's are not known. The stages of a
pipeline follow one another, so their times add up; what ranks say to one another is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from kvplan.core.attention_flops import attention_flops, prompt_attention_flops
from kvplan.core.fit import FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import KindStorage, PlacedKind, group_kinds, place_layers, store_kind
from kvplan.core.model import Model, Parameters
from kvplan.core.quality import SpeedRow, speed_for
from kvplan.core.roofline import (
    DENSE_LAYER_SECONDS,
    EXPERT_LAYER_SECONDS,
    CacheReading,
    DecodeStep,
    StepEstimate,
    break_even_tokens,
    computing_parameters,
    estimate_step,
    expert_bytes,
    idle_bytes,
    prefill_seconds,
)
from kvplan.core.widths import Widths
from kvplan.planning.size import counted_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpeed:
    """How one rank of each stage, taken together, reads its cache: bytes of one sequence, and the kernel's figures."""

    sequence_bytes: int
    bytes_per_token: Fraction
    efficiency_ratio: float | None
    overhead_seconds: float | None

    @property
    def reading(self) -> CacheReading:
        """What one more token of context adds to a step."""
        return CacheReading(bytes_per_token=self.bytes_per_token, efficiency_ratio=self.efficiency_ratio)


def cache_speed(result: FitResult, speeds: Sequence[SpeedRow]) -> CacheSpeed:
    """What a step reads of the cache, and how fast the engine's kernels read this format (``speeds``: measured)."""
    size, model = result.request.size, result.model
    parallel = size.parallel
    groups = group_kinds(place_layers(counted_layers(model, size), size.choice.kv_format), size.choice.policy)

    def store(item: PlacedKind) -> KindStorage:
        """One layer's storage on one rank."""
        ranks, context = parallel.head_ranks, size.context_tokens
        return store_kind(item, size.choice, context, size.encoder_tokens, ranks, parallel.dcp)

    stored = {item: store(item) for item in groups}
    row = speed_row(result, speeds)
    compressed = sum(count for item, count in groups.items() if stored[item].parts and not _is_native(item))
    per_layer = row.layer_overhead_seconds if row else None
    return CacheSpeed(
        sequence_bytes=sum(groups[item] * stored[item].total_bytes for item in groups),
        bytes_per_token=sum((groups[item] * stored[item].growth_bytes for item in groups), Fraction(0)),
        efficiency_ratio=row.efficiency_ratio if row else None,
        overhead_seconds=None if per_layer is None else per_layer * compressed,
    )


def step_of(result: FitResult, speed: CacheSpeed, batch: int) -> StepEstimate | None:
    """One decode step of ``batch`` sequences on each replica; None where the model's parameters are not known."""
    parameters = result.model.architecture.parameters
    if parameters is None:
        return None
    request, architecture = result.request, result.model.architecture
    ranks = request.size.parallel.tp
    num_experts, chosen = _routing(parameters, architecture.widths)
    loaded = replace(parameters, towers=0) if request.text_only else parameters
    seconds = EXPERT_LAYER_SECONDS if parameters.experts else DENSE_LAYER_SECONDS
    flops = attention_flops(architecture, request.size.context_tokens, request.size.encoder_tokens)
    return estimate_step(
        DecodeStep(
            weights_bytes=sum(budget.weights.size_bytes for budget in result.budgets),
            kv_bytes=batch * speed.sequence_bytes,
            active_parameters=computing_parameters(loaded) // ranks,
            attention_flops=flops // ranks,
            batch=batch,
            bandwidth_bytes_per_second=request.accelerator.bandwidth_bytes_per_second,
            peak_flops=_peak_flops(result),
            expert_bytes=expert_bytes(parameters, request.weight_format) // ranks,
            idle_bytes=idle_bytes(loaded, request.weight_format) // ranks,
            num_experts=num_experts,
            experts_per_token=chosen,
            kv_efficiency_ratio=speed.efficiency_ratio,
            fixed_seconds=architecture.num_layers * seconds + (speed.overhead_seconds or 0.0),
        )
    )


def prompt_seconds(result: FitResult, prompt_tokens: int) -> float | None:
    """Time to compute one prompt; None where it is not known."""
    architecture = result.model.architecture
    parameters, ranks = architecture.parameters, result.request.size.parallel.tp
    if parameters is None:
        return None
    active = computing_parameters(parameters) // ranks
    flops = prompt_attention_flops(architecture, prompt_tokens, result.request.size.encoder_tokens) // ranks
    return prefill_seconds(prompt_tokens, active, flops, _peak_flops(result))


def break_even(result: FitResult, native: CacheSpeed, smaller: CacheSpeed) -> float | None:
    """The context from which the smaller cache also decodes faster, one sequence alone; None where not known."""
    if smaller.overhead_seconds is None:
        return None
    bandwidth = result.request.accelerator.bandwidth_bytes_per_second
    return break_even_tokens(native.reading, smaller.reading, bandwidth, smaller.overhead_seconds)


def _routing(parameters: Parameters, widths: Widths | None) -> tuple[int, int]:
    """(experts of a layer, experts that a token visits); from the active parameters where the widths are not known."""
    if widths is not None and widths.num_experts:
        return widths.num_experts, widths.experts_per_token
    if not parameters.experts or parameters.active is None:
        return 0, 0
    idle = parameters.total - parameters.active
    return parameters.experts, max(1, parameters.experts - idle)


def _is_native(item: PlacedKind) -> bool:
    return item.kv_format.key == item.kv_format.native and item.kv_format.value == item.kv_format.native


def speed_row(result: FitResult, speeds: Sequence[SpeedRow]) -> SpeedRow | None:
    """What was measured of the engine's kernels for this format, heads and device; None where nothing was."""
    capability = result.request.accelerator.compute_capability
    name = result.request.size.choice.kv_format.key.name
    return speed_for(speeds, name, result.engine, widest_head(result.model), capability)


def widest_head(model: Model) -> int | None:
    """Elements of a key's row in the widest attention layer; None without attention."""
    return max((kind.head_shape()[1] or 0 for layer in model.architecture.layers for kind in layer), default=0) or None


def _peak_flops(result: FitResult) -> float | None:
    """In the dtype that the projections compute in: FP8 where weights are FP8 and the device has it."""
    peaks = result.request.accelerator.peak_flops
    eight_bit = result.request.weight_format.name.startswith("fp8")
    return peaks.get("fp8", peaks.get("bf16")) if eight_bit else peaks.get("bf16")
