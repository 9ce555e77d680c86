"""The packaged models as a table: what each one is, and what its cache costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from kvplan.core.errors import UnknownNameError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import CacheChoice, group_kinds, place_layers, store_kind
from kvplan.core.kinds import KINDS
from kvplan.core.model import Model
from kvplan.formats import parse_kv_format
from kvplan.policies.none import POLICY as KEEP_ALL
from kvplan.specs.catalogue import load_found, spec_files


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model; ``bytes_per_token`` is the cost of a token while no window is full, in the model's dtype."""

    name: str
    family: str
    aliases: tuple[str, ...]
    kinds: tuple[str, ...]
    num_parameters: int | None
    num_layers: int
    max_context_tokens: int | None
    bytes_per_token: int
    fixed_bytes: int

    def fields(self) -> dict[str, Any]:
        """Plain values for reports."""
        return asdict(self)


def catalogue_entries() -> list[CatalogueEntry]:
    """Every packaged model."""
    return [describe_model(load_found(path)) for path in spec_files()]


def describe_model(model: Model) -> CatalogueEntry:
    """A model's line of the catalogue."""
    architecture = model.architecture
    choice = CacheChoice(kv_format=parse_kv_format("auto", model.dtype), policy=KEEP_ALL)
    groups = group_kinds(place_layers(architecture.layers, choice.kv_format), KEEP_ALL)
    stored = {item: store_kind(item, choice, 1, architecture.encoder_tokens or 0) for item in groups}
    return CatalogueEntry(
        name=model.name,
        family=model.family,
        aliases=model.aliases,
        kinds=tuple(dict.fromkeys(item.kind.kind for item in groups)),
        num_parameters=architecture.parameters.total if architecture.parameters else None,
        num_layers=architecture.num_layers,
        max_context_tokens=architecture.max_context_tokens,
        bytes_per_token=math.ceil(
            sum(
                count * stored[item].bytes_per_token
                for item, count in groups.items()
                if not any(part.encoder for part in item.kind.parts())
            )
        ),
        fixed_bytes=sum(count * stored[item].fixed_bytes for item, count in groups.items()),
    )


def filter_entries(
    entries: Iterable[CatalogueEntry], text: str | None, family: str | None, kind: str | None
) -> list[CatalogueEntry]:
    """The entries that match everything asked. Raises UnknownNameError for an unknown family or kind."""
    kept = list(entries)
    if kind is not None:
        if kind not in KINDS:
            raise UnknownNameError("kind of layer", kind, KINDS)
        kept = [entry for entry in kept if kind in entry.kinds]
    if family is not None:
        if family not in {entry.family for entry in kept}:
            raise UnknownNameError("family", family, {entry.family for entry in kept})
        kept = [entry for entry in kept if entry.family == family]
    if text is not None:
        kept = [entry for entry in kept if _mentions(entry, text.lower())]
    return kept


def sort_entries(entries: Iterable[CatalogueEntry], key: str) -> list[CatalogueEntry]:
    """By ``name``, or largest first by ``parameters``, ``context`` or ``cache`` (bytes per token)."""
    return sorted(entries, key=_SORT_KEYS[key])


_SORT_KEYS: dict[str, Callable[[CatalogueEntry], Any]] = {
    "name": lambda entry: entry.name.lower(),
    "parameters": lambda entry: -(entry.num_parameters or 0),
    "context": lambda entry: -(entry.max_context_tokens or 0),
    "cache": lambda entry: -entry.bytes_per_token,
}


def _mentions(entry: CatalogueEntry, text: str) -> bool:
    return any(text in word.lower() for word in (entry.name, entry.family, *entry.aliases, *entry.kinds))
