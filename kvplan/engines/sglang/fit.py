"""Where a rank's memory goes when SGLang starts: its fraction is of what is free before the weights are loaded."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from kvplan.core.attention import CompressedStream, Latent
from kvplan.core.budget import BudgetLine, BudgetRequest, RankBudget, loaded_weights, weights_line, weights_words
from kvplan.core.overhead import Overhead
from kvplan.core.units import MIB, format_bytes
from kvplan.core.weight_shards import RankWeights, WeightSpread
from kvplan.engines.sglang.budget import Reserve, overhead, vision_fraction
from kvplan.engines.sglang.hardware import read_hardware
from kvplan.engines.sglang.plan import chunk_tokens

VOCAB_MULTIPLE = 64
"""``layers/vocab_parallel_embedding.py`` ``DEFAULT_VOCAB_PADDING_SIZE``."""

IMAGE_CACHE_BYTES = 100 * MIB
"""``SGLANG_VLM_CACHE_SIZE_MB``, set aside beside the fraction (``mem_cache/kv_cache_configurator.py:202``)."""

_VISION_BLOCK = 12
"""Parameters of a vision layer by hidden size squared: four projections, and two of four times the width."""


def settle_batch(request: BudgetRequest) -> BudgetRequest:
    """The request with SGLang's ``--chunked-prefill-size`` for the device."""
    allocation = request.allocation
    tokens = chunk_tokens(allocation, read_hardware(replace(allocation.settings, accelerator=request.accelerator)))
    settings = replace(allocation.settings, max_num_batched_tokens=tokens)
    return replace(request, allocation=replace(allocation, settings=settings))


def rank_budgets(request: BudgetRequest) -> tuple[RankBudget, ...]:
    """The fullest rank of each stage. Raises UnsupportedError where the model's weights are not known."""
    reserve, fraction = read_reserve(request), request.memory_utilization
    vision = _vision_parameters(request)
    if vision and fraction is None:
        fraction = vision_fraction(reserve.mem_fraction_static, vision // _VISION_BLOCK, 1)
    found = overhead(request.accelerator.memory_bytes, reserve, fraction)
    shards = loaded_weights(request, weight_spread(request))
    return tuple(_budget(request, weights, found, bool(vision)) for weights in shards)


def attention_ranks(request: BudgetRequest) -> int:
    """Ranks of ``--enable-dp-attention``: what ``--dp`` is taken for where there are experts to share."""
    parameters = request.architecture.parameters
    return request.allocation.parallel.dp if parameters is not None and parameters.experts else 1


def weight_spread(request: BudgetRequest) -> WeightSpread:
    """Replicas share routed experts under attention data parallelism, and nothing otherwise."""
    parallel = replace(request.allocation.parallel, dp=attention_ranks(request))
    return WeightSpread(
        parallel=parallel,
        expert_parallel=request.expert_parallel,
        vocab_multiple=VOCAB_MULTIPLE,
        draft_layers=request.allocation.num_draft_layers > 0,
        towers=not request.text_only,
    )


def read_reserve(request: BudgetRequest) -> Reserve:
    """What the default fraction depends on; nvidia-smi's total where it is known, which is a little more."""
    allocation, device = request.allocation, request.accelerator
    ranks = attention_ranks(request)
    kinds = {item.kind for stage in allocation.stages for layer in stage for item in layer}
    return Reserve(
        memory_mib=(device.management_bytes or device.memory_bytes) // MIB,
        tp=allocation.parallel.tp * ranks,
        pp=allocation.parallel.pp,
        attention_dp=ranks,
        latent=any(isinstance(kind, (Latent, CompressedStream)) for kind in kinds),
        graphs=not request.eager,
        chunk_tokens=allocation.settings.max_num_batched_tokens,
        max_running_requests=allocation.settings.max_num_seqs,
    )


def _vision_parameters(request: BudgetRequest) -> int:
    parameters = request.architecture.parameters
    return 0 if parameters is None or request.text_only else parameters.towers


def _budget(request: BudgetRequest, weights: RankWeights, found: Overhead, vision: bool) -> RankBudget:
    """The reserve belongs to activations and graphs, whatever they take of it in the end."""
    memory, images = request.accelerator.memory_bytes, IMAGE_CACHE_BYTES * vision
    line = weights_line(weights)
    lines = [
        f"cache = ({memory:,} - {found.non_torch_bytes:,}) x fraction - weights (kv_cache_configurator.py:2990)",
        *found.lines,
        *weights_words(weights),
    ]
    if vision:
        lines.append(f"images: the default fraction is lowered, by the size of the tower, and {format_bytes(images)}")
        lines.append("  are set aside for embeddings (memory_hook.py:417; the tower's shape is estimated)")
    if attention_ranks(request) > 1:
        lines.append("--dp is taken for --enable-dp-attention; dense blocks are counted whole on each of its ranks")
        line = replace(line, certainty="estimate", error_bytes=max(line.error_bytes, line.size_bytes // 20))
    certainty = "estimate" if vision and request.memory_utilization is None else "rule"
    slack = int(memory * Fraction(2, 100)) if certainty == "estimate" else 0
    return RankBudget(
        memory_bytes=memory,
        requested_bytes=memory,
        weights=line,
        activation=BudgetLine(size_bytes=found.activation_bytes + images, certainty=certainty, error_bytes=slack),
        cuda_graph=BudgetLine(size_bytes=found.cuda_graph_bytes, certainty="rule"),
        non_torch=BudgetLine(
            size_bytes=found.non_torch_bytes, certainty=found.certainty, error_bytes=found.expected_error_bytes
        ),
        explanation=tuple(lines),
    )
