"""What layers store, exactly: kinds, formats and policies multiplied out, before any engine rounds.

Layers that store the same are grouped first; every figure is then computed once for a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from fractions import Fraction
from functools import cache

from kvplan.core.attention import LayerKind
from kvplan.core.format import CacheFormat, KVFormat
from kvplan.core.frozen import dataclass
from kvplan.core.model import Layer
from kvplan.core.part import Part, StateTensor, state_bytes
from kvplan.core.policy import Place, RetentionPolicy, Tier
from kvplan.core.units import cdiv


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheChoice:
    """How a request stores and keeps: formats, a policy, and the formats that the policy's tiers name."""

    kv_format: KVFormat
    policy: RetentionPolicy
    tier_formats: Mapping[str, CacheFormat] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedKind:
    """One kind of one layer, where it stands, and the format it is stored in (a native layer has its own)."""

    kind: LayerKind
    kv_format: KVFormat
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStorage:
    """One tier of one part in one layer, one sequence: ``rows`` rows of every head in ``cache_format``."""

    part: Part
    tokens: int
    rows: int
    cache_format: CacheFormat
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindStorage:
    """One layer's storage of one kind for one sequence.

    ``bytes_per_token`` is what a kept token takes in the oldest tier, ``growth_bytes`` what one more token of
    context adds; both are averages where rows or groups span several tokens.
    """

    resident_tokens: int
    kept_tokens: int
    parts: tuple[PartStorage, ...]
    states: tuple[StateTensor, ...]
    bytes_per_token: Fraction
    growth_bytes: Fraction

    @property
    def state_bytes(self) -> int:
        """Bytes of the state tensors."""
        return sum(map(state_bytes, self.states))

    @property
    def total_bytes(self) -> int:
        """Rows and state together."""
        return sum(part.stored_bytes for part in self.parts) + self.state_bytes

    @property
    def fixed_bytes(self) -> int:
        """What does not depend on the context: state, and rows of the encoder's tokens."""
        return sum(part.stored_bytes for part in self.parts if part.part.encoder) + self.state_bytes


def place_layers(layers: Sequence[Layer], kv_format: KVFormat) -> list[tuple[PlacedKind, ...]]:
    """Each layer's kinds with their place among the layers that hold prunable tokens, and their format.

    The first and last ``boundary_layers`` of them stay native when every layer attends; a model with recurrent
    layers skips none (vLLM 0.33, ``engine/arg_utils.py`` ``get_boundary_skip_layers``).
    """
    attending = [index for index, layer in enumerate(layers) if _attends(layer)]
    hybrid = kv_format.boundary_layers and any(kind.states() for layer in layers for kind in layer)
    edge = 0 if hybrid else kv_format.boundary_layers
    boundary = set(attending[:edge] + attending[len(attending) - edge :])
    native = kv_format.all_native()
    rank = {index: position for position, index in enumerate(attending)}
    placed = []
    for index, layer in enumerate(layers):
        place = Place(rank.get(index, 0), len(attending))
        kept_native = index in boundary or index in kv_format.native_layers
        placed.append(
            tuple(
                PlacedKind(
                    kind=kind,
                    kv_format=native if kept_native or (kv_format.native_windows and kind.window_tokens) else kv_format,
                    place=place,
                )
                for kind in layer
            )
        )
    return placed


def group_kinds(layers: Iterable[tuple[PlacedKind, ...]], policy: RetentionPolicy) -> dict[PlacedKind, int]:
    """Equal kinds of all layers with their count, in order of first appearance.

    Places are told apart only for policies whose budget depends on the layer.
    """
    per_layer = getattr(policy, "per_layer", False)
    anywhere = Place(0, 1)
    counts: dict[tuple[LayerKind, KVFormat, Place], int] = {}
    for layer in layers:
        for item in layer:
            key = (item.kind, item.kv_format, item.place if per_layer else anywhere)
            counts[key] = counts.get(key, 0) + 1
    return {
        PlacedKind(kind=kind, kv_format=kv_format, place=place): count
        for (kind, kv_format, place), count in counts.items()
    }


def store_kind(
    item: PlacedKind,
    choice: CacheChoice,
    context_tokens: int,
    encoder_tokens: int,
    head_ranks: int = 1,
    dcp: int = 1,
) -> KindStorage:
    """The storage of one kind in one layer, for one sequence, on one rank of ``head_ranks`` x ``dcp``."""
    resident = kept = 0
    bytes_per_token = growth_bytes = Fraction(0)
    stored: list[PartStorage] = []
    for part in (part.shard(head_ranks) for part in item.kind.parts()):
        resident = part.resident_tokens(context_tokens, encoder_tokens)
        tiers = part_tiers(part, resident, item.place, choice.policy)
        kept = sum(tier.tokens for tier in tiers)
        stored += _store_part(part, tiers, item.kv_format, choice, dcp)
        if tiers:
            row = _tier_format(tiers[-1], part, item.kv_format, choice).row_bytes(part)
            kept_share = choice.policy.growth(resident, item.place) if part.prunable else 1
            bytes_per_token += row / part.tokens_per_row
            growth_bytes += part.rows_per_token(context_tokens) * kept_share * row / dcp
    return KindStorage(
        resident_tokens=resident,
        kept_tokens=kept,
        parts=tuple(stored),
        states=tuple(state.shard(head_ranks * dcp) for state in item.kind.states()),
        bytes_per_token=bytes_per_token,
        growth_bytes=growth_bytes,
    )


def part_tiers(part: Part, resident_tokens: int, place: Place, policy: RetentionPolicy) -> tuple[Tier, ...]:
    """What a policy keeps of a part: everything, where the part's tokens cannot be dropped."""
    return policy.tiers(resident_tokens, place) if part.prunable else (Tier(resident_tokens),)


def part_bytes(part: Part, tiers: Sequence[Tier], kv_format: KVFormat, choice: CacheChoice) -> int:
    """Bytes of a part's tiers, one layer and sequence: ``store_kind`` without its records, for sweeps."""
    return sum(_tier_format(tier, part, kv_format, choice).stored_bytes(part, part.rows(tier.tokens)) for tier in tiers)


def _store_part(
    part: Part, tiers: Sequence[Tier], kv_format: KVFormat, choice: CacheChoice, dcp: int
) -> list[PartStorage]:
    stored = []
    for tier in tiers:
        tokens = tier.tokens if part.encoder else cdiv(tier.tokens, dcp)
        cache_format = _tier_format(tier, part, kv_format, choice)
        rows = part.rows(tokens)
        stored.append(
            PartStorage(
                part=part,
                tokens=tokens,
                rows=rows,
                cache_format=cache_format,
                stored_bytes=cache_format.stored_bytes(part, rows),
            )
        )
    return stored


def check_formats(groups: Iterable[PlacedKind], choice: CacheChoice) -> None:
    """Raise UnsupportedError where a format cannot hold a part of the model."""
    for item in groups:
        for part in item.kind.parts():
            item.kv_format.of(part).check(part)
            if part.prunable:
                for cache_format in choice.tier_formats.values():
                    cache_format.check(part)


def _tier_format(tier: Tier, part: Part, kv_format: KVFormat, choice: CacheChoice) -> CacheFormat:
    return choice.tier_formats[tier.cache_format] if tier.cache_format else kv_format.of(part)


@cache
def _attends(layer: Layer) -> bool:
    return any(part.prunable for kind in layer for part in kind.parts())
