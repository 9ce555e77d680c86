"""Where a device's memory goes when llama.cpp starts: weights, compute buffer and a margin; it has no fraction."""

from __future__ import annotations

import re
from dataclasses import replace

from kvplan.core.attention import CrossAttention
from kvplan.core.budget import (
    BudgetLine,
    BudgetRequest,
    RankBudget,
    compose_budget,
    forward_overhead,
    loaded_weights,
    refuse_utilization,
)
from kvplan.core.errors import UnsupportedError
from kvplan.core.estimated_widths import estimate_widths
from kvplan.core.overhead import GUESSED_ERROR, Overhead
from kvplan.core.units import format_bytes
from kvplan.core.weight_shards import PART_WORDS, RankWeights, WeightSpread
from kvplan.engines.llamacpp.overhead import overhead
from kvplan.engines.llamacpp.plan import split_layers

_GGUF_TYPES = re.compile(r"bf16|fp16|fp32|mxfp4|i?q\d|tq\d")
_LOGIT_BYTES = 4


def device_budgets(request: BudgetRequest, name: str, ubatch: int, unified: bool) -> tuple[RankBudget, ...]:
    """Each device, the layers split over ``--pp`` of them. Raises UnsupportedError for weights that no GGUF holds."""
    refuse_utilization(request, name)
    _check_weights(request, name)
    on_host = request.accelerator.vendor == "host"
    found = _compute_buffer(request, ubatch, unified, devices=0 if on_host else 1)
    margin = BudgetLine(size_bytes=found.non_torch_bytes, certainty="estimate", error_bytes=found.non_torch_bytes // 2)
    activation = replace(found, expected_error_bytes=found.expected_error_bytes - margin.error_bytes)
    shards = loaded_weights(request, _spread(request))
    return tuple(
        _device(request, _on_device(request, weights, index), activation, margin, is_last=index == len(shards) - 1)
        for index, weights in enumerate(shards)
    )


def _check_weights(request: BudgetRequest, name: str) -> None:
    weights = request.weight_format.name
    if not _GGUF_TYPES.match(weights):
        raise UnsupportedError(
            f"{name} loads GGUF files, which do not store {weights}", "say which file: --weights q4_k_m, q8_0 or bf16"
        )


def _spread(request: BudgetRequest) -> WeightSpread:
    """Whole layers on devices of equal memory, cut where llama.cpp cuts them."""
    allocation = request.allocation
    layers = tuple(layer for stage in allocation.stages for layer in stage)
    layers = layers[: request.architecture.num_layers]
    return WeightSpread(
        parallel=replace(allocation.parallel, dp=1),
        draft_layers=allocation.num_draft_layers > 0,
        towers=not request.text_only,
        stage_layers=tuple(len(stage) for stage in split_layers(layers, allocation.parallel.pp)),
    )


def _on_device(request: BudgetRequest, weights: RankWeights, index: int) -> RankWeights:
    """Without the input embedding, which stays in the host's memory; a tied one is on the last device, as the head."""
    parts = dict(weights.lines)
    is_head = PART_WORDS["output_head"] not in parts and index == request.allocation.parallel.pp - 1
    embedding = parts.get(PART_WORDS["embedding"], 0)
    if request.accelerator.unified_memory or is_head or not embedding:
        return weights
    lines = tuple(line for line in weights.lines if line[0] != PART_WORDS["embedding"])
    return replace(weights, bytes=weights.bytes - embedding, lines=lines)


def _compute_buffer(request: BudgetRequest, ubatch: int, unified: bool, devices: int) -> Overhead:
    """llama.cpp's rule where it covers the model and its widths are known; wider estimates elsewhere."""
    allocation, architecture = request.allocation, request.architecture
    kinds = [item.kind for stage in allocation.stages for layer in stage for item in layer]
    cells = allocation.max_model_len * (allocation.sequences if unified else 1)
    widths = architecture.widths or estimate_widths(architecture)
    if any(isinstance(kind, CrossAttention) for kind in kinds):
        found = forward_overhead(request, len(allocation.stages) - 1, ubatch, ubatch)
        bare = overhead(allocation.facts, widths, (), ubatch, cells, devices)
        margin = bare.non_torch_bytes
        return replace(
            found,
            non_torch_bytes=margin,
            expected_error_bytes=found.activation_bytes + margin // 2,
            lines=("no rule for the position bias of encoder-decoder models: ± 100%", *found.lines),
        )
    found = overhead(allocation.facts, widths, kinds, ubatch, cells, devices)
    if architecture.widths is not None:
        return found
    return replace(
        found,
        expected_error_bytes=found.expected_error_bytes + int(found.activation_bytes * GUESSED_ERROR),
        lines=(*found.lines, f"the model states no widths: they are estimated from its size, ± {GUESSED_ERROR:.0%}"),
    )


def _device(
    request: BudgetRequest, weights: RankWeights, found: Overhead, margin: BudgetLine, is_last: bool
) -> RankBudget:
    """The output buffer is the host's, unless the two share their memory."""
    unified, widths = request.accelerator.unified_memory, request.architecture.widths
    vocabulary = (widths or estimate_widths(request.architecture)).vocab_size
    output = request.allocation.sequences * vocabulary * _LOGIT_BYTES if unified and is_last else 0
    words = ["all layers on devices (-ngl 999), the memory of each taken whole: llama.cpp has no fraction"]
    if output:
        words.append(f"output buffer: {request.allocation.sequences:,} x {vocabulary:,} x 4 B = {format_bytes(output)}")
    if not unified:
        words.append("the input embedding and the output buffer stay in the host's memory (src/llama-model.cpp:1604)")
    if request.allocation.parallel.pp > 1:
        words.append("copies of inputs that several devices pass on are not counted")
    found = replace(found, activation_bytes=found.activation_bytes + output)
    return compose_budget(request, weights, found, margin, words=words)
