"""Sweeps: the cache of many contexts, formats and models, each compiled once and evaluated in microseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvplan.core.format import KVFormat
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import (
    CacheChoice,
    PlacedKind,
    check_formats,
    group_kinds,
    part_bytes,
    part_tiers,
    place_layers,
)
from kvplan.core.model import Model
from kvplan.core.part import Part, state_bytes
from kvplan.policies.none import POLICY as KEEP_ALL


@dataclass(frozen=True, slots=True)
class CacheCurve:
    """The cache of one sequence as a function of its length: growing terms and a fixed state."""

    terms: tuple[tuple[int, Part, PlacedKind], ...]
    state_bytes: int
    choice: CacheChoice

    def geometry_bytes(self, context_tokens: int, encoder_tokens: int = 0) -> int:
        """Bytes of one sequence of this length, all layers."""
        total = self.state_bytes
        policy = self.choice.policy
        for count, part, item in self.terms:
            tiers = part_tiers(part, part.resident_tokens(context_tokens, encoder_tokens), item.place, policy)
            total += count * part_bytes(part, tiers, item.kv_format, self.choice)
        return total


def compile_curve(model: Model, choice: CacheChoice) -> CacheCurve:
    """The curve of a model under a choice of format and policy. Raises UnsupportedError as ``size_model`` does."""
    groups = group_kinds(place_layers(model.architecture.layers, choice.kv_format), choice.policy)
    check_formats(groups, choice)
    terms = tuple((count, part, item) for item, count in groups.items() for part in item.kind.parts())
    states = sum(count * sum(map(state_bytes, item.kind.states())) for item, count in groups.items())
    return CacheCurve(terms, states, choice)


def sweep(
    models: Iterable[Model], contexts: Iterable[int], formats: Iterable[KVFormat], encoder_tokens: int = 0
) -> Iterator[tuple[Model, KVFormat, int, int]]:
    """Every combination as (model, format, context tokens, bytes of one sequence)."""
    lengths = tuple(contexts)
    choices = [CacheChoice(kv_format=kv_format, policy=KEEP_ALL) for kv_format in formats]
    for model in models:
        for choice in choices:
            curve = compile_curve(model, choice)
            for context_tokens in lengths:
                yield model, choice.kv_format, context_tokens, curve.geometry_bytes(context_tokens, encoder_tokens)
