"""A model spec (YAML) becomes a Model. Packaged specs take the fast path; the schema checks external ones first.

``model_specs/README.md`` explains every field. The layout is written out (kinds by name, patterns with repeats), and
what can be counted is stated a second time, so that a slip shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvplan.core.attention import LayerKind
from kvplan.core.errors import SpecError, near_hint
from kvplan.core.kinds import KINDS
from kvplan.core.model import PARAMETER_PARTS, Architecture, Layer, Model, Parameters, WeightsOnDisk
from kvplan.core.widths import Widths
from kvplan.specs.simple_spec import as_count, is_simple, simple_architecture
from kvplan.specs.yaml_file import load_yaml_file

MAX_LAYERS = 4096
JOIN = "+"
"""Joins the names of kinds that one layer keeps together: ``mla+index``."""


def read_spec(path: Path) -> Model:
    """The Model of an external spec. Raises FileError, or SpecError with every problem and its path at once."""
    from kvplan.specs.schema import check_spec  # pydantic is imported for external files only

    mapping = load_yaml_file(path)
    problems = check_spec(mapping)
    problems += [problem for problem in contradictions(mapping) if problem not in problems]
    if problems:
        raise SpecError(str(path), problems, "model_specs/README.md explains every field of a spec")
    return build_model(mapping, str(path))


def build_model(mapping: Mapping[str, Any], source: str) -> Model:
    """The Model of a spec that is already known to be well formed. Raises SpecError when it is not after all."""
    problems = contradictions(mapping)
    if (as_count(mapping.get("num_layers")) or 0) > MAX_LAYERS:
        problems.append(f"num_layers: must be at most {MAX_LAYERS}")
    if problems:
        raise SpecError(source, problems)
    try:
        return _build(mapping, source)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(source, [f"is not a sound spec ({type(error).__name__}: {error})"]) from None


def contradictions(mapping: Mapping[str, Any]) -> list[str]:
    """What a spec says twice and differently, or refers to and lacks. Parts that are malformed are passed over."""
    problems: list[str] = []
    if not is_simple(mapping):
        problems += _layer_contradictions(mapping)
    if mapping.get("kv_scheme_method") is not None and mapping.get("kv_scheme") is None:
        problems.append("kv_scheme: is missing (kv_scheme_method belongs to it)")
    parameters = mapping.get("parameters")
    if isinstance(parameters, Mapping):
        parts = [as_count(parameters.get(name, 0)) for name in PARAMETER_PARTS]
        known = [part for part in parts if part is not None]
        total, active = as_count(parameters.get("total")), as_count(parameters.get("active"))
        if total is not None and len(known) == len(parts) and sum(known) != total:
            problems.append(f"parameters.total: says {total}, but the parts add up to {sum(known)}")
        if active is not None and total is not None and active > total:
            problems.append(f"parameters.active: {active} is more than the total {total}")
    return problems


def _layer_contradictions(mapping: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    kinds = mapping.get("kinds")
    if not isinstance(kinds, Mapping):
        return problems
    used: set[str] = set()
    for key in ("layers", "draft_layers"):
        entries = _entries(mapping.get(key, []), key, problems)
        names = dict.fromkeys(name for entry in entries for name in entry.split(JOIN))
        for name in names:
            if name not in kinds:
                problems.append(
                    f"{key}: the kind {name!r} is not described under kinds; {near_hint(name, map(str, kinds))}"
                )
        used.update(names)
        stated = as_count(mapping.get("num_layers"))
        if key == "layers" and entries and stated is not None and len(entries) != stated:
            problems.append(f"num_layers: says {stated}, but the patterns under layers make {len(entries)}")
    if used:
        problems += [f"kinds.{name}: no layer uses it" for name in kinds if name not in used]
    return problems


def _entries(groups: Any, key: str, problems: list[str]) -> list[str]:
    """The layers that patterns with repeats stand for, one entry each; malformed groups count as none."""
    entries: list[str] = []
    for group in groups if isinstance(groups, Sequence) else ():
        pattern = group.get("pattern") if isinstance(group, Mapping) else None
        repeat = as_count(group.get("repeat", 1)) if isinstance(group, Mapping) else None
        if not isinstance(pattern, list) or not all(isinstance(entry, str) for entry in pattern) or repeat is None:
            return []
        if len(entries) + len(pattern) * repeat > MAX_LAYERS:
            problems.append(f"{key}: makes more than {MAX_LAYERS} layers")
            return []
        entries += pattern * repeat
    return entries


def _build(mapping: Mapping[str, Any], source: str) -> Model:
    origin = {str(key): str(value) for key, value in mapping.get("source", {}).items()}
    notes = tuple(mapping.get("notes", ()))
    weights = mapping.get("weights", {})
    architecture = simple_architecture(mapping, notes) if is_simple(mapping) else _architecture(mapping, notes)
    return Model(
        name=mapping["name"],
        source=origin.get("url") or origin.get("file") or source,
        family=mapping.get("family", "spec"),
        dtype=mapping.get("dtype", "bf16"),
        architecture=architecture,
        architecture_class=mapping.get("architecture_class"),
        weights=WeightsOnDisk(
            weight_format=weights.get("format"),
            exact_bytes=weights.get("bytes"),
            exact_parameters=weights.get("parameters"),
        ),
        kv_scheme=mapping.get("kv_scheme"),
        kv_scheme_method=mapping.get("kv_scheme_method"),
        aliases=tuple(mapping.get("aliases", ())),
        provenance=origin,
    )


def _architecture(mapping: Mapping[str, Any], notes: tuple[str, ...]) -> Architecture:
    kinds = {name: build_kind(fields) for name, fields in mapping["kinds"].items()}
    parameters = mapping.get("parameters")
    return Architecture(
        layers=_layers(mapping["layers"], kinds),
        hidden_size=mapping["hidden_size"],
        num_heads=mapping.get("num_heads"),
        max_context_tokens=mapping.get("max_context_tokens"),
        draft_layers=_layers(mapping.get("draft_layers", []), kinds),
        encoder_tokens=mapping.get("encoder_tokens"),
        num_encoder_layers=mapping.get("num_encoder_layers"),
        parameters=None if parameters is None else _parameters(parameters),
        widths=None if (widths := mapping.get("widths")) is None else _widths(widths),
        notes=notes,
    )


def build_kind(fields: Mapping[str, Any]) -> LayerKind:
    """A layer kind from its fields. Raises KeyError, TypeError or ValueError on fields that make none."""
    return KINDS[fields["kind"]](**{name: value for name, value in fields.items() if name != "kind"})


def _layers(groups: Sequence[Mapping[str, Any]], kinds: Mapping[str, LayerKind]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for group in groups:
        pattern = [tuple(kinds[name] for name in entry.split(JOIN)) for entry in group["pattern"]]
        layers += pattern * group.get("repeat", 1)
    return tuple(layers)


def _widths(fields: Mapping[str, Any]) -> Widths:
    return Widths(**{**fields, "dense_layers": tuple(fields.get("dense_layers", ()))})


def _parameters(fields: Mapping[str, Any]) -> Parameters:
    return Parameters(**{name: value for name, value in fields.items() if name != "total"})
