"""Sweeps: the cache of many contexts, formats and models, each compiled once and evaluated in microseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvplan.core.format import KVFormat, PartFormat, RowFormat
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


class Line(NamedTuple):
    """Parts of all layers whose bytes are a straight line in their rows, added up.

    ``rows`` rows take ``rows`` x ``row_bytes``, and ``once_bytes`` besides if there are any.
    """

    limit_tokens: int | None
    prefix_tokens: int
    tokens_per_row: int
    encoder: bool
    row_bytes: int
    once_bytes: int


@dataclass(frozen=True, slots=True)
class CacheCurve:
    """The cache of one sequence as a function of its length: lines, terms that are none, and a fixed state.

    ``terms`` are the parts under a policy that prunes, or in a format with a residual window, with their count.
    """

    lines: tuple[Line, ...]
    terms: tuple[tuple[int, Part, PlacedKind], ...]
    state_bytes: int
    choice: CacheChoice

    def geometry_bytes(self, context_tokens: int, encoder_tokens: int = 0) -> int:
        """Bytes of one sequence of this length, all layers."""
        total = self.state_bytes
        for limit, prefix, tokens_per_row, encoder, row_bytes, once_bytes in self.lines:
            tokens = encoder_tokens if encoder else context_tokens
            if limit is not None and tokens > limit:
                tokens = limit
            rows = (tokens + prefix) // tokens_per_row
            if rows:
                total += rows * row_bytes + once_bytes
        for count, part, item in self.terms:
            resident = part.resident_tokens(context_tokens, encoder_tokens)
            tiers = part_tiers(part, resident, item.place, self.choice.policy)
            total += count * part_bytes(part, tiers, item.kv_format, self.choice)
        return total


def compile_curve(model: Model, choice: CacheChoice) -> CacheCurve:
    """The curve of a model under a choice of format and policy. Raises UnsupportedError as ``size_model`` does."""
    groups = group_kinds(place_layers(model.architecture.layers, choice.kv_format), choice.policy)
    check_formats(groups, choice)
    terms = [(count, part, item) for item, count in groups.items() for part in item.kind.parts()]
    straight = [term for term in terms if _is_straight(term[1], term[2], choice)]
    states = sum(count * sum(map(state_bytes, item.kind.states())) for item, count in groups.items())
    bent = tuple(term for term in terms if term not in straight)
    return CacheCurve(tuple(_add_lines(straight)), bent, states, choice)


def _is_straight(part: Part, item: PlacedKind, choice: CacheChoice) -> bool:
    kept_whole = choice.policy == KEEP_ALL or not part.prunable
    return kept_whole and isinstance(item.kv_format.of(part), (RowFormat, PartFormat))


def _add_lines(terms: Iterable[tuple[int, Part, PlacedKind]]) -> Iterator[Line]:
    sums: dict[tuple[int | None, int, int, bool], tuple[int, int]] = {}
    for count, part, item in terms:
        cache_format = item.kv_format.of(part)
        one, two = (cache_format.stored_bytes(part, rows) for rows in (1, 2))
        key = (part.limit_tokens, part.prefix_tokens, part.tokens_per_row, part.encoder)
        row_bytes, once_bytes = sums.get(key, (0, 0))
        sums[key] = (row_bytes + count * (two - one), once_bytes + count * (2 * one - two))
    return (Line(*key, *added) for key, added in sums.items())


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
