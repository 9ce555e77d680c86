"""The advice files become core values: rules, the classic matrix, published quality, gates and speeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kvplan.core.advice import (
    ATTENTIONS,
    FIELDS,
    OPERATORS,
    QUALITIES,
    TASKS,
    ClassicRule,
    Condition,
    MatrixRow,
    Option,
    Rule,
)
from kvplan.core.errors import SpecError, near_hint
from kvplan.core.frozen import dataclass
from kvplan.core.quality import Gate, QualityRow, SpeedRow
from kvplan.specs.yaml_file import load_yaml_file

_FOLDER = Path(__file__).resolve().parent.parent / "advice"
_WORDS = {
    "attention": ATTENTIONS,
    "task": TASKS,
    "quality": QUALITIES,
    "bound": ("memory", "compute"),
    "memory_pressure": ("low", "medium", "high"),
    "concurrency_class": ("low", "high"),
}
"""The words that a field may be compared with, where they are few."""

_FREE_WORDS = ("engine", "vendor", "gfx_target")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_VERSION = re.compile(r"([0-9]{1,2})\.([0-9])", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Everything that advice rests on. ``differences`` say where the evidence departs from the classic matrix."""

    rules: tuple[Rule, ...]
    options: Mapping[str, Option]
    matrix: tuple[MatrixRow, ...]
    classic: tuple[ClassicRule, ...]
    differences: tuple[str, ...]
    quality: tuple[QualityRow, ...]
    gates: tuple[Gate, ...]
    speed: tuple[SpeedRow, ...]


@cache
def load_advice(folder: Path = _FOLDER) -> Advice:
    """The packaged advice, which tests check, or that of another folder, which is checked here.

    Raises FileError or SpecError.
    """
    matrix, rules = _read(folder, "matrix"), _read(folder, "rules")
    quality, speed = _read(folder, "quality"), _read(folder, "speed")
    return Advice(
        rules=tuple(_rule(entry, rules["sources"], str(folder / "rules.yaml")) for entry in rules["rules"]),
        options={
            name: Option(name=name, label=entry["label"], formats=tuple(entry.get("formats", ())))
            for name, entry in rules["options"].items()
        },
        matrix=tuple(MatrixRow(**{**entry, "advice": tuple(entry["advice"])}) for entry in matrix["rows"]),
        classic=tuple(_classic(entry, str(folder / "matrix.yaml")) for entry in matrix["rules"]),
        differences=tuple(matrix["differences"]),
        quality=tuple(_quality(entry, quality["sources"]) for entry in quality["rows"]),
        gates=tuple(Gate(**{**entry, "source": quality["sources"][entry["source"]]}) for entry in quality["gates"]),
        speed=tuple(_speed(entry, speed["sources"]) for entry in speed["rows"]),
    )


def parse_condition(text: str, source: str) -> Condition:
    """``pressure_ratio >= 0.7``, ``task in chat | batch``, ``context_tokens < break_even_tokens``. Raises SpecError."""
    words = text.split(maxsplit=2)
    if len(words) != 3 or words[1] not in OPERATORS:
        operators = " ".join(OPERATORS)
        raise SpecError(source, [f"{text!r} is no condition"], f"write: field, one of {operators}, value")
    name, sign, bound = words
    if name not in FIELDS:
        raise SpecError(source, [f"{text!r}: there is no field {name!r}"], near_hint(name, FIELDS))
    if bound in FIELDS:
        return Condition(field=name, operator=sign, bound_field=bound)
    values = tuple(_value(name, word.strip(), source) for word in bound.split("|"))
    if len(values) > 1 and sign != "in":
        raise SpecError(source, [f"{text!r} compares with several values"], "write: in")
    return Condition(field=name, operator=sign, bound=values if sign == "in" else values[0])


def _value(name: str, word: str, source: str) -> Any:
    """A bound as its field has it: a capability (9, 0), a truth value, a number or a word."""
    if word in ("true", "false"):
        return word == "true"
    if name == "compute_capability" and (version := _VERSION.fullmatch(word)):
        return (int(version[1]), int(version[2]))
    if _NUMBER.fullmatch(word) and name != "compute_capability":
        return float(word) if "." in word else int(word)
    allowed = _WORDS.get(name)
    if allowed is not None and word not in allowed:
        raise SpecError(source, [f"{name} is never {word!r}"], near_hint(word, allowed))
    if allowed is None and name not in _FREE_WORDS:
        raise SpecError(source, [f"{name} is never {word!r}"], "write a number, such as 0.7, 32768 or 9.0")
    return word


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    values = load_yaml_file(path, "an advice table")
    if folder != _FOLDER:
        from kvplan.specs.advice_schema import check_table

        problems = check_table(name, values)
        if problems:
            raise SpecError(str(path), problems, "kvplan/advice/__init__.py explains the files")
    return values


def _conditions(texts: list[str], source: str) -> tuple[Condition, ...]:
    return tuple(parse_condition(text, source) for text in texts)


def _rule(entry: Mapping[str, Any], sources: Mapping[str, str], path: str) -> Rule:
    return Rule(
        id=entry["id"],
        when=_conditions(entry["when"], f"{path}: rules.{entry['id']}"),
        advice=tuple(entry["advice"]),
        avoid=tuple(entry.get("avoid", ())),
        reason=entry["reason"],
        sources=tuple(sources[name] for name in entry["source"]),
        modifier=entry.get("modifier", False),
    )


def _classic(entry: Mapping[str, Any], path: str) -> ClassicRule:
    return ClassicRule(**{**entry, "when": _conditions(entry["when"], f"{path}: rules.{entry['id']}")})


def _quality(entry: Mapping[str, Any], sources: Mapping[str, str]) -> QualityRow:
    """A row; its loss follows from its scores where it has both."""
    values = dict(entry)
    if "baseline" in entry:
        change = entry["compressed"] / entry["baseline"] - 1
        values["loss_ratio"] = -change if entry.get("higher", True) else change
    return QualityRow(**{**values, "names": tuple(entry["names"]), "source": sources[entry["source"]]})


def _speed(entry: Mapping[str, Any], sources: Mapping[str, str]) -> SpeedRow:
    throughput = entry.get("throughput_ratio")
    return SpeedRow(
        **{
            **entry,
            "names": tuple(entry["names"]),
            "throughput_ratio": (throughput[0], throughput[1]) if throughput else None,
            "source": "; ".join(sources[name] for name in entry["source"]),
        }
    )
