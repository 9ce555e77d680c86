"""Where a rank's memory goes when vLLM starts: weights, overhead, and the cache that is left.

``requested = ceil(total x gpu_memory_utilization)`` (0.33 ``worker/utils.py`` ``request_memory``); 0.92 by default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from kvplan.core.budget import (
    BudgetLine,
    BudgetRequest,
    RankBudget,
    loaded_weights,
    weights_line,
    weights_words,
)
from kvplan.core.estimated_widths import estimate_widths
from kvplan.core.model import Layer
from kvplan.core.overhead import GUESSED_ERROR
from kvplan.core.units import format_bytes
from kvplan.core.weight_shards import RankWeights
from kvplan.engines.vllm.overhead import overhead
from kvplan.engines.vllm.profile_run import Batch, ProfileRun, batch_limits
from kvplan.engines.vllm.rules import Rules
from kvplan.engines.vllm.run import device_of
from kvplan.engines.vllm.weights import HeldBesides, held_besides, vllm_spread

_SCOPE = re.compile(r"(_g[0-9]+)?(_mlp|_experts)?$")
"""What a weight format's name says besides the scheme: group size, and which blocks are left in 16 bits."""

UTILIZATION = Fraction(92, 100)
"""``gpu_memory_utilization`` where it is not set (``config/cache.py``, 0.25 to 0.33)."""


def start_batch(request: BudgetRequest, rules: Rules) -> Batch:
    """Tokens and requests of one step, as vLLM resolves them for this device and usage."""
    allocation = request.allocation
    return batch_limits(allocation.settings, allocation.max_model_len, rules, request.usage)


def rank_budgets(
    request: BudgetRequest, rules: Rules, flashinfer: bool, block_tokens: int | None
) -> tuple[RankBudget, ...]:
    """The fullest rank of each stage. Raises UnsupportedError where the model's weights are not known.

    Widths that are not known are estimated from the parameter counts, and the activations with them.
    """
    allocation = request.allocation
    spread = vllm_spread(
        allocation.parallel,
        expert_parallel=request.expert_parallel,
        draft_layers=allocation.num_draft_layers > 0,
        text_only=request.text_only,
    )
    shards = loaded_weights(request, spread)
    budgets = []
    for index, (weights, stage) in enumerate(zip(shards, allocation.stages)):
        layers = tuple(tuple(item.kind for item in layer) for layer in stage)
        besides = held_besides(
            request.architecture,
            allocation.facts.family,
            request.weight_format,
            spread,
            layers,
            request.accelerator,
        )
        run = _profile(request, rules, flashinfer, layers, block_tokens, index)
        budgets.append(_budget(request, weights, besides, run))
    return tuple(budgets)


def _profile(
    request: BudgetRequest,
    rules: Rules,
    flashinfer: bool,
    layers: Sequence[Layer],
    block_tokens: int | None,
    index: int,
) -> ProfileRun:
    allocation, architecture = request.allocation, request.architecture
    return ProfileRun(
        rules=rules,
        device=device_of(request.accelerator, flashinfer),
        facts=allocation.facts,
        widths=architecture.widths or estimate_widths(architecture),
        layers=tuple(layers),
        batch=start_batch(request, rules),
        max_model_len=allocation.max_model_len,
        tp=allocation.parallel.tp,
        dp=allocation.parallel.dp,
        expert_parallel=request.expert_parallel,
        eager=request.eager,
        block_tokens=block_tokens or 16,
        num_speculative_tokens=allocation.settings.num_speculative_tokens or 0,
        weight_format=_SCOPE.sub("", request.weight_format.name),
        embeds=index == 0,
        samples=index == len(allocation.stages) - 1,
    )


def _budget(
    request: BudgetRequest, weights: RankWeights, besides: Sequence[HeldBesides], run: ProfileRun
) -> RankBudget:
    utilization = request.memory_utilization or UTILIZATION
    memory = request.accelerator.memory_bytes
    requested = math.ceil(memory * utilization)
    line = weights_line(weights, sum(entry.bytes for entry in besides))
    found = overhead(run)
    graphs, outside = found.cuda_graph_error_bytes, found.non_torch_error_bytes
    share, certainty = found.expected_error_bytes - graphs - outside, found.certainty
    guess: tuple[str, ...] = ()
    if request.architecture.widths is None:
        share, certainty = share + int(found.activation_bytes * GUESSED_ERROR), "estimate"
        guess = (f"the model states no widths: they are estimated from its size, ± {GUESSED_ERROR:.0%} of activations",)
    lines = (
        f"requested = ceil({memory:,} x {float(utilization):g}) = {requested:,} B (worker/utils.py)",
        *weights_words(weights),
        *(f"weights, {entry.words}: {format_bytes(entry.bytes)} ({entry.source})" for entry in besides),
        *found.lines,
        *guess,
    )
    return RankBudget(
        memory_bytes=memory,
        requested_bytes=requested,
        weights=line,
        activation=BudgetLine(size_bytes=found.activation_bytes, certainty=certainty, error_bytes=share),
        cuda_graph=BudgetLine(size_bytes=found.cuda_graph_bytes, certainty="estimate", error_bytes=graphs),
        non_torch=BudgetLine(size_bytes=found.non_torch_bytes, certainty="estimate", error_bytes=outside),
        explanation=lines,
    )
