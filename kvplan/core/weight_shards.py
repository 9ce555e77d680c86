"""The weights that one rank of each pipeline stage holds, under tensor, pipeline and expert parallelism.

Heads, feed-forward widths, experts and the vocabulary are split; norms, routers and the projections into latents are
held by every rank. KV heads fewer than the ranks are held more than once, and so is what does not divide. How much of
each: ``core/layer_shards.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from kvplan.core.frozen import dataclass
from kvplan.core.layer_shards import LayerShards
from kvplan.core.model import Architecture, Parameters, WeightsOnDisk
from kvplan.core.parallel import Parallel, pipeline_stages
from kvplan.core.units import cdiv, round_up
from kvplan.core.weights import WeightFormat, part_bits, weights_bytes
from kvplan.core.widths import Widths

PART_WORDS: Mapping[str, str] = {
    "embedding": "embedding",
    "output_head": "output head",
    "attention": "attention",
    "state": "recurrent mixers",
    "mlp": "feed-forward blocks and shared experts",
    "experts": "routed experts",
    "routers": "routers",
    "norms": "norms",
    "towers": "encoders and towers",
    "other": "other weights",
    "mtp": "draft layers",
}
"""How a report calls each part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSpread:
    """How an engine spreads the weights.

    ``expert_parallel``  whole experts on each of the tp x dp ranks, in place of a slice of every expert
    ``vocab_multiple``   the vocabulary is padded to a multiple of this (vLLM: 64)
    ``draft_layers``     multi-token-prediction layers are loaded, on the last stage
    ``towers``           vision and audio towers are loaded, on the first stage; ``split_towers`` over its ranks
    ``stage_layers``     layers of each stage, where the engine cuts otherwise than ``pipeline_stages``
    """

    parallel: Parallel = Parallel()
    expert_parallel: bool = False
    vocab_multiple: int = 1
    draft_layers: bool = False
    towers: bool = True
    split_towers: bool = True
    stage_layers: tuple[int, ...] = ()

    @property
    def expert_ranks(self) -> int:
        """Ranks that share the routed experts: data-parallel replicas do too."""
        return self.parallel.tp * self.parallel.dp

    @property
    def shared_expert_ranks(self) -> int:
        """Ranks that share the shared experts: none do where tokens are spread over the ranks of a replica.

        vLLM 0.33 ``config/parallel.py`` ``use_sequence_parallel_moe``: expert and tensor parallelism under dp.
        """
        parallel = self.parallel
        return 1 if self.expert_parallel and parallel.tp > 1 and parallel.dp > 1 else parallel.tp


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWeights:
    """The weights of the fullest rank of a stage. ``certainty`` is ``exact``, ``rule`` or ``estimate``.

    ``lines`` are (part in words, bytes), largest first; they add up to ``bytes``.
    """

    bytes: int
    certainty: str
    lines: tuple[tuple[str, int], ...]


@lru_cache(maxsize=256)  # searches ask about the same placement on many devices
def shard_weights(
    architecture: Architecture, weights: WeightsOnDisk, weight_format: WeightFormat, spread: WeightSpread
) -> tuple[RankWeights, ...] | None:
    """A rank of each stage; None where neither the parameters nor the bytes of the files are known.

    Exact bytes of files scale all parts alike. Without widths, everything is taken to split evenly: an estimate.
    """
    parameters, parallel = architecture.parameters, spread.parallel
    alone = parallel.tp == parallel.pp == 1 and spread.expert_ranks == 1
    if parameters is None:
        return None if weights.exact_bytes is None else _evenly(weights.exact_bytes, parallel, alone)
    scale = _file_scale(parameters, weights, weight_format)
    widths = architecture.widths
    if widths is None and not alone:
        total = math.ceil(scale * weights_bytes(_loaded(parameters, spread), weight_format))
        return _evenly(total, parallel, alone)
    certainty = _certainty(parameters, weights, weight_format, alone)
    stages = _stage_elements(architecture, parameters, widths, spread)
    bits = part_bits(weight_format, tied=not parameters.output_head)
    return tuple(_rank(stage, bits, scale, certainty) for stage in stages)


def _evenly(total_bytes: int, parallel: Parallel, alone: bool) -> tuple[RankWeights, ...]:
    share = cdiv(total_bytes, parallel.tp * parallel.pp)
    rank = RankWeights(bytes=share, certainty="exact" if alone else "estimate", lines=(("weights", share),))
    return (rank,) * parallel.pp


def _loaded(parameters: Parameters, spread: WeightSpread) -> Parameters:
    parameters = parameters if spread.towers else replace(parameters, towers=0)
    return replace(parameters, other=parameters.other + parameters.mtp) if spread.draft_layers else parameters


def _file_scale(parameters: Parameters, weights: WeightsOnDisk, weight_format: WeightFormat) -> Fraction:
    """Exact bytes of the files by those of the format; files may hold the draft layers too."""
    if weights.exact_bytes is None or not parameters.total:
        return Fraction(1)
    main = weights_bytes(parameters, weight_format)
    bits = part_bits(weight_format, tied=not parameters.output_head)
    stored = weights.exact_parameters or parameters.total
    has_draft = abs(stored - parameters.total - parameters.mtp) < abs(stored - parameters.total)
    return Fraction(weights.exact_bytes) / (main + (parameters.mtp * bits["mtp"] / 8 if has_draft else 0))


def _certainty(parameters: Parameters, weights: WeightsOnDisk, weight_format: WeightFormat, alone: bool) -> str:
    if weights.exact_bytes is not None:
        return "exact" if alone else "rule"
    if weight_format.certainty != "exact":
        return "estimate"
    return "exact" if alone and parameters.certainty == "exact" else "rule"


def _rank(
    elements: Mapping[str, Fraction], bits: Mapping[str, Fraction], scale: Fraction, certainty: str
) -> RankWeights:
    """Whole bytes for each part, so that they add up to the rounded sum."""
    lines, exact, whole = [], Fraction(0), 0
    for name, count in elements.items():
        exact += count * bits[name] * scale / 8
        if count:
            lines.append((PART_WORDS[name], math.ceil(exact) - whole))
            whole = math.ceil(exact)
    return RankWeights(
        bytes=whole, certainty=certainty, lines=tuple(sorted(lines, key=lambda line: line[1], reverse=True))
    )


def _stage_elements(
    architecture: Architecture, parameters: Parameters, widths: Widths | None, spread: WeightSpread
) -> list[dict[str, Fraction]]:
    """Parameters by part on one rank of each stage."""
    sizes = spread.stage_layers or pipeline_stages(architecture.num_layers, spread.parallel.pp)
    shards = LayerShards(
        architecture=architecture,
        parameters=parameters,
        widths=widths,
        tp=spread.parallel.tp,
        expert_ranks=spread.expert_ranks,
        whole_experts=spread.expert_parallel,
        shared_expert_ranks=spread.shared_expert_ranks,
    )
    stages = []
    first = 0
    for index, size in enumerate(sizes):
        stage = shards.sum(range(first, first + size))
        _add_ends(stage, architecture, spread, is_first=index == 0, is_last=index == len(sizes) - 1)
        if index == len(sizes) - 1 and spread.draft_layers:
            stage["mtp"] = shards.draft()
        stages.append(stage)
        first += size
    return stages


def _add_ends(
    stage: dict[str, Fraction], architecture: Architecture, spread: WeightSpread, is_first: bool, is_last: bool
) -> None:
    """Embedding and towers at the front, the head at the back; a tied embedding stands at both."""
    parameters, widths, tp = architecture.parameters, architecture.widths, spread.parallel.tp
    assert parameters is not None
    tied = not parameters.output_head
    if is_first or (is_last and tied):
        stage["embedding"] = _vocabulary_share(parameters.embedding, architecture.hidden_size, widths, spread)
    if is_last:
        stage["output_head"] = _vocabulary_share(parameters.output_head, architecture.hidden_size, widths, spread)
    if is_first and spread.towers:
        stage["towers"] = Fraction(parameters.towers, tp if spread.split_towers else 1)


def _vocabulary_share(count: int, hidden_size: int, widths: Widths | None, spread: WeightSpread) -> Fraction:
    """A rank's rows of the padded vocabulary, and all of what stands beside them (positions, biases)."""
    rows = 0 if widths is None else widths.vocab_size * hidden_size
    if not rows or rows > count:
        return Fraction(count, spread.parallel.tp)
    padded = cdiv(round_up(widths.vocab_size, spread.vocab_multiple), spread.parallel.tp) if widths else 0
    return Fraction(padded * hidden_size + count - rows)
