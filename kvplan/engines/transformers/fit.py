"""Where a rank's memory goes under ``generate``: it reserves nothing, so that what is not weights is an estimate."""

from __future__ import annotations

import re
from dataclasses import replace

from kvplan.core.budget import (
    BudgetRequest,
    RankBudget,
    compose_budget,
    expand_weights,
    forward_overhead,
    loaded_weights,
    refuse_utilization,
    runtime_line,
    runtime_words,
)
from kvplan.core.weight_shards import WeightSpread

_EXPANDED = re.compile(r"i?q\d|tq\d|mlx_")
"""Weights of GGUF files, which ``from_pretrained(gguf_file=...)`` expands to the model's dtype, and MLX's."""


def rank_budgets(request: BudgetRequest) -> tuple[RankBudget, ...]:
    """The fullest rank of each stage of a device map. Raises UnsupportedError where the weights are not known."""
    refuse_utilization(request, "transformers")
    words = ["transformers reserves nothing and has no fraction: activations are an estimate, no rule of its own"]
    if _EXPANDED.match(request.weight_format.name):
        words.append(f"weights in {request.weight_format.name} are expanded to 16 bits when they are loaded")
        request = expand_weights(request)
    allocation = request.allocation
    parallel = allocation.parallel
    tokens = allocation.sequences * allocation.context_tokens
    words.append(
        f"one pass reads {allocation.sequences:,} x {allocation.context_tokens:,} tokens, all prompts at once: "
        "prefill_chunk_size makes it less, longer or more prompts more"
    )
    runtime = runtime_line(parallel.tp)
    spread = WeightSpread(
        parallel=replace(parallel, dp=1), expert_parallel=request.expert_parallel, towers=not request.text_only
    )
    return tuple(
        compose_budget(
            request,
            weights,
            forward_overhead(request, index, tokens, allocation.sequences),
            runtime,
            words=(*words, runtime_words(runtime)),
        )
        for index, weights in enumerate(loaded_weights(request, spread))
    )
