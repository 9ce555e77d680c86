"""``kvplan evaluate --thresholds FILE``: what methods must stay below, in YAML.

::

    all:                                   # every method
      kld_mean: 0.005
    kinds:                                 # fp8, int8, int4 (all below 8 bits), prune (all that drops tokens)
      prune: {perplexity_increase_ratio: 5%, needle_drop_ratio: 10%}
    methods:                               # one method, as --methods takes it
      int8: {top1_disagreement_ratio: 2%, accuracy_drop_ratio: null}

A limit is a share, ``0.005`` or ``0.5%`` (``kld_mean`` is in nats); null asks for none. What a file does not name stays
as it is by default. A method goes before its kind, and a kind before ``all``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field, fields, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from kvplan.core.errors import SpecError, near_hint
from kvplan.core.evaluation import Thresholds
from kvplan.core.frozen import dataclass
from kvplan.specs.schema import field_problems
from kvplan.specs.yaml_file import load_yaml_file

GATE_KINDS = ("fp8", "int8", "int4", "prune")
"""What a method can be held to: the gates of ``kvplan/advice/quality.yaml``."""

Limits = Mapping[str, float | None]
"""Some fields of Thresholds."""

_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%", re.ASCII)
_SECTIONS = ("all", "kinds", "methods")
_HOW = "write for example: kinds: {prune: {needle_drop_ratio: 10%}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdRules:
    """What departs from the default limits: of all methods, of a kind, of a method as it was written."""

    everywhere: Limits = field(default_factory=dict, hash=False)
    kinds: Mapping[str, Limits] = field(default_factory=dict, hash=False)
    methods: Mapping[str, Limits] = field(default_factory=dict, hash=False)

    def of_kind(self, kind: str, default: Thresholds) -> Thresholds:
        """A kind's default limits with those of ``all``, then with its own."""
        return reduce(change, (self.everywhere, self.kinds.get(kind, {})), default)


def change(limits: Thresholds, by: Limits) -> Thresholds:
    """The limits, with those that ``by`` names."""
    return replace(limits, **by)


def read_thresholds(path: Path) -> ThresholdRules:
    """The rules of a YAML file. Raises FileError where it cannot be read, SpecError with every problem."""
    values = load_yaml_file(path, "a table of thresholds")
    problems = [f"{name}: unknown section; {near_hint(name, _SECTIONS)}" for name in values if name not in _SECTIONS]
    everywhere, found = _limits("all", values.get("all"))
    problems += found
    kinds, found = _section("kinds", values.get("kinds"))
    problems += found + [f"kinds.{kind}: unknown kind; {near_hint(kind, GATE_KINDS)}" for kind in _unknown(kinds)]
    methods, found = _section("methods", values.get("methods"))
    problems += found
    if not problems and not (everywhere or kinds or methods):
        problems.append("names no threshold")
    if problems:
        raise SpecError(str(path), problems, _HOW)
    return ThresholdRules(everywhere=everywhere, kinds=kinds, methods=methods)


def _unknown(kinds: Mapping[str, Limits]) -> list[str]:
    return [kind for kind in kinds if kind not in GATE_KINDS]


def _section(name: str, values: Any) -> tuple[dict[str, Limits], list[str]]:
    """Limits by name, and what is wrong with them."""
    if not isinstance(values or {}, Mapping):
        return {}, [f"{name}: a mapping of names to limits is expected"]
    read = {str(entry): _limits(f"{name}.{entry}", limits) for entry, limits in (values or {}).items()}
    return {entry: limits for entry, (limits, _) in read.items()}, [
        line for _, found in read.values() for line in found
    ]


def _limits(path: str, values: Any) -> tuple[Limits, list[str]]:
    if values is None:
        return {}, []
    if not isinstance(values, Mapping):
        return {}, [f"{path}: a mapping of limits is expected"]
    problems = field_problems(_Limits, values)
    if problems:
        return {}, [f"{path}.{problem}" for problem in problems]
    return _Limits.model_validate(values).model_dump(exclude_unset=True), []


def _share(value: Any) -> Any:
    """``0.5%`` as 0.005; everything else as it is."""
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


_Limit = Annotated[Annotated[float, Field(gt=0, lt=1, strict=True)] | None, BeforeValidator(_share)]
"""Below 1, so that 2 is not taken for 2 %: a cache that doubles the perplexity is no candidate for anything."""

_Limits: type[BaseModel] = create_model(
    "_Limits",
    __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
    **{entry.name: (_Limit, None) for entry in fields(Thresholds)},  # type: ignore[call-overload]
)
