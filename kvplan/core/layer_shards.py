"""How many parameters of each layer one rank holds: what is split by heads, width or expert, and what is replicated.

A model's counts are known by part, not by layer. They are given to the layers by what each layer's kinds and widths
say it has; what a block has beyond that (gates, biases) is split evenly with the rest of its projections.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property

from kvplan.core.attention import CompressedStream, CrossAttention, HeadedKind, IndexKeys, Latent, LayerKind, NoCache
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture, Layer, Parameters
from kvplan.core.recurrent import Mamba2, RecurrentKind, StateBuffer
from kvplan.core.units import cdiv
from kvplan.core.widths import Widths

LAYER_PARTS = ("attention", "state", "mlp", "experts", "routers", "norms", "other")
"""The parts of Parameters that belong to layers."""

_NO_WIDTHS = Widths(vocab_size=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSplit:
    """Parameters of one layer's attention.

    ``split`` by query heads, ``shared`` by KV heads of which each rank holds at least one, ``replicated`` everywhere.
    """

    split: Fraction = Fraction(0)
    shared: Fraction = Fraction(0)
    replicated: Fraction = Fraction(0)
    num_kv_heads: int = 1

    @property
    def total(self) -> Fraction:
        """All of them."""
        return self.split + self.shared + self.replicated

    def on_rank(self, tp: int) -> Fraction:
        """What one of ``tp`` ranks holds (vLLM 0.33 ``layers/linear.py`` ``QKVParallelLinear``)."""
        return (
            self.split / tp + self.shared * Fraction(cdiv(self.num_kv_heads, tp), self.num_kv_heads) + self.replicated
        )

    def plus(self, other: AttentionSplit) -> AttentionSplit:
        """Both together; the KV heads are those of the one that has any."""
        return AttentionSplit(
            split=self.split + other.split,
            shared=self.shared + other.shared,
            replicated=self.replicated + other.replicated,
            num_kv_heads=other.num_kv_heads if other.shared else self.num_kv_heads,
        )


def split_attention(layer: Layer, hidden_size: int, num_heads: int, widths: Widths) -> AttentionSplit:
    """What the kinds of a layer say of its projections, without biases and gates."""
    found = AttentionSplit()
    for kind in layer:
        if isinstance(kind, (HeadedKind, CrossAttention)):
            found = found.plus(_headed(kind, hidden_size, num_heads))
        elif isinstance(kind, Latent):
            found = found.plus(_latent(kind, hidden_size, num_heads, widths))
        elif isinstance(kind, IndexKeys):
            found = found.plus(_index(kind, hidden_size, widths))
        elif isinstance(kind, CompressedStream):
            series = 2 if any(isinstance(other, IndexKeys) for other in layer) else 1
            found = found.plus(AttentionSplit(replicated=Fraction(2 * series * hidden_size * kind.head_dim)))
        elif isinstance(kind, NoCache) or kind.states():
            continue
        else:  # a layer that reads another's cache has queries and an output: as many as any, by count
            found = found.plus(AttentionSplit(split=Fraction(2 * hidden_size * hidden_size)))
    return found


def _headed(kind: HeadedKind | CrossAttention, hidden_size: int, num_heads: int) -> AttentionSplit:
    width, v_width = kind.head_dim, kind.v_head_dim or kind.head_dim
    return AttentionSplit(
        split=Fraction(hidden_size * num_heads * (width + v_width)),
        shared=Fraction(hidden_size * kind.num_kv_heads * (width + v_width)),
        num_kv_heads=kind.num_kv_heads,
    )


def _latent(kind: Latent, hidden_size: int, num_heads: int, widths: Widths) -> AttentionSplit:
    """Projections into the latents are replicated, those out of them split (vLLM 0.33 ``models/deepseek_v2.py``)."""
    query = num_heads * (widths.qk_nope_head_dim + kind.qk_rope_head_dim)
    out_of_latent = kind.kv_lora_rank * num_heads * (widths.qk_nope_head_dim + widths.v_head_dim)
    output = num_heads * widths.v_head_dim * hidden_size
    rank = widths.q_lora_rank
    return AttentionSplit(
        split=Fraction((rank or hidden_size) * query + out_of_latent + output),
        replicated=Fraction(
            rank * (hidden_size + 1) + hidden_size * (kind.kv_lora_rank + kind.qk_rope_head_dim) + kind.kv_lora_rank
        ),
    )


def _index(kind: IndexKeys, hidden_size: int, widths: Widths) -> AttentionSplit:
    """The indexer of sparse attention, whole on every rank (vLLM 0.33 ``models/deepseek_v2.py`` ``Indexer``)."""
    queries = (widths.q_lora_rank or hidden_size) * widths.index_num_heads * kind.head_dim
    return AttentionSplit(replicated=Fraction(queries + hidden_size * (kind.head_dim + widths.index_num_heads)))


@dataclass(frozen=True, kw_only=True)
class LayerShards:
    """The layers of a model as one rank holds them.

    ``expert_ranks`` share the routed experts: whole ones (``whole_experts``) or a slice of each.
    """

    architecture: Architecture
    parameters: Parameters
    widths: Widths | None
    tp: int
    expert_ranks: int
    whole_experts: bool
    shared_expert_ranks: int

    def sum(self, layers: Iterable[int]) -> dict[str, Fraction]:
        """Parameters of these layers on one rank, by part."""
        totals = dict.fromkeys(LAYER_PARTS, Fraction(0))
        for layer in layers:
            for name, count in self.layer(layer).items():
                totals[name] += count
        return totals

    def layer(self, index: int) -> dict[str, Fraction]:
        """Parameters of one layer on one rank, by part."""
        count = self.architecture.num_layers
        sparse = self._sparse
        return {
            "attention": self._attention[index].on_rank(self.tp),
            "state": self._state(index),
            "mlp": self._mlp(index),
            "experts": self._expert_layer * self._expert_share if index in sparse else Fraction(0),
            "routers": Fraction(self.parameters.routers, len(sparse) or count)
            if index in (sparse or range(count))
            else Fraction(0),
            "norms": Fraction(self.parameters.norms, count),
            "other": Fraction(self.parameters.other, count * self.tp),
        }

    def draft(self) -> Fraction:
        """The draft layers on one rank: layers like the others, and a replicated projection of 2:1."""
        drafts = self.architecture.draft_layers
        hidden = self.architecture.hidden_size
        expert = self._expert_layer
        num_sparse = min(int(self.parameters.mtp / expert), len(drafts)) if expert else 0
        attention = self._nominal_sum(drafts)
        projection = Fraction(2 * hidden * hidden * len(drafts))
        rest = self.parameters.mtp - num_sparse * expert - attention.total - projection
        if rest < 0:
            return Fraction(self.parameters.mtp, self.tp)
        experts = num_sparse * expert * self._expert_share
        return experts + attention.on_rank(self.tp) + projection + rest / self.tp

    @cached_property
    def _attention(self) -> list[AttentionSplit]:
        """The attention of each layer, so that all together have the model's count."""
        nominal = [self._nominal(layer) for layer in self.architecture.layers]
        total = sum((entry.total for entry in nominal), Fraction(0))
        missing = self.parameters.attention - total
        split = sum((entry.split for entry in nominal), Fraction(0))
        if not total:
            share = Fraction(self.parameters.attention, len(nominal))
            return [AttentionSplit(split=share) for _ in nominal]
        if split + missing > 0:
            return [entry.plus(AttentionSplit(split=missing * entry.total / total)) for entry in nominal]
        scale = self.parameters.attention / total
        return [
            AttentionSplit(
                split=entry.split * scale,
                shared=entry.shared * scale,
                replicated=entry.replicated * scale,
                num_kv_heads=entry.num_kv_heads,
            )
            for entry in nominal
        ]

    def _nominal(self, layer: Layer) -> AttentionSplit:
        architecture = self.architecture
        return split_attention(layer, architecture.hidden_size, architecture.num_heads or 1, self.widths or _NO_WIDTHS)

    def _nominal_sum(self, layers: Iterable[Layer]) -> AttentionSplit:
        total = AttentionSplit()
        for layer in layers:
            total = total.plus(self._nominal(layer))
        return total

    def _state(self, index: int) -> Fraction:
        """A mixer is split by heads or channels; the groups of Mamba-2 are held at least one by each rank."""
        holders = self._state_layers
        if index not in holders:
            return Fraction(0)
        whole = Fraction(self.parameters.state, len(holders))
        mixer = next((kind for kind in self.architecture.layers[index] if isinstance(kind, Mamba2)), None)
        if mixer is None:
            return whole / self.tp
        groups = Fraction(self.architecture.hidden_size * 2 * mixer.num_groups * mixer.state_size)
        groups = min(groups, whole)
        return (whole - groups) / self.tp + groups * Fraction(cdiv(mixer.num_groups, self.tp), mixer.num_groups)

    @cached_property
    def _state_layers(self) -> frozenset[int]:
        layers = self.architecture.layers
        found = [index for index, layer in enumerate(layers) if any(_is_mixer(kind) for kind in layer)]
        return frozenset(found or range(len(layers)))

    def _mlp(self, index: int) -> Fraction:
        """Dense blocks are split over ``tp`` ranks, shared experts over ``shared_expert_ranks``."""
        if index not in self._feed_forwards:
            return Fraction(0)
        dense = set(self.widths.dense_layers if self.widths else ()) & self._feed_forwards
        if not self._sparse:
            return Fraction(self.parameters.mlp, len(self._feed_forwards) * self.tp)
        block = Fraction(min(self._dense_block, self.parameters.mlp // max(len(dense), 1)))
        if index in dense:
            return block / self.tp
        return (self.parameters.mlp - len(dense) * block) / (len(self._sparse) * self.shared_expert_ranks)

    @property
    def _dense_block(self) -> int:
        widths = self.widths or _NO_WIDTHS
        return (3 if widths.gated else 2) * self.architecture.hidden_size * widths.intermediate_size

    @cached_property
    def _feed_forwards(self) -> frozenset[int]:
        """The layers with a feed-forward block: all, or where mixers stand alone those without a cache (Nemotron-H)."""
        layers = self.architecture.layers
        idle = [index for index, layer in enumerate(layers) if all(isinstance(kind, NoCache) for kind in layer)]
        alone = idle and any(_is_mixer(kind) for layer in layers for kind in layer)
        return frozenset(idle if alone else range(len(layers)))

    @cached_property
    def _sparse(self) -> frozenset[int]:
        """The layers with experts; none in a dense model."""
        if not self.parameters.experts:
            return frozenset()
        dense = set(self.widths.dense_layers) if self.widths else set()
        return self._feed_forwards - dense or self._feed_forwards

    @property
    def _expert_layer(self) -> Fraction:
        return Fraction(self.parameters.experts, len(self._sparse) or 1)

    @property
    def _expert_share(self) -> Fraction:
        """The share of a layer's experts on the fullest rank."""
        count = self.widths.num_experts if self.widths else 0
        if self.whole_experts and count:
            return Fraction(cdiv(count, self.expert_ranks), count)
        return Fraction(1, self.expert_ranks)


def _is_mixer(kind: LayerKind) -> bool:
    return isinstance(kind, RecurrentKind) and not isinstance(kind, StateBuffer)
