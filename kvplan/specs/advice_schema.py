"""The strict frame of the advice files, in pydantic, and what it cannot say: names that refer to other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kvplan.core.advice import QUALITIES, TASKS
from kvplan.specs.schema import Size, Text, field_problems

_STRICT = ConfigDict(strict=True, extra="forbid")
_Task = Literal[TASKS]  # type: ignore[valid-type]
_Quality = Literal[QUALITIES]  # type: ignore[valid-type]
_Names = Annotated[list[Text], Field(min_length=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class OptionEntry(BaseModel):
    """An option of ``rules.yaml``."""

    model_config = _STRICT
    label: Text
    formats: list[Text] = []


class RuleEntry(BaseModel):
    """A rule of ``rules.yaml``."""

    model_config = _STRICT
    id: Text
    when: list[Text]
    advice: list[Text]
    avoid: list[Text] = []
    reason: Text
    source: _Names
    modifier: bool = False


class MatrixEntry(BaseModel):
    """A row of ``matrix.yaml``."""

    model_config = _STRICT
    context: Text
    min_tokens: Size = 1
    max_tokens: Size = 1
    concurrency: Literal["low", "high", "any"]
    memory_pressure: Literal["low", "medium", "high"]
    recommendation: Text
    advice: _Names


class ClassicEntry(BaseModel):
    """A rule beside the matrix."""

    model_config = _STRICT
    id: Text
    side: Literal["use", "skip"]
    text: Text
    when: _Names


class QualityEntry(BaseModel):
    """A row of ``quality.yaml``."""

    model_config = _STRICT
    names: _Names
    model: Text
    family: Text
    metric: Text
    higher: bool = True
    task: _Task
    source: Text
    loss_ratio: _Number = 0.0
    baseline: _Positive = 1.0
    compressed: _Positive = 1.0
    engine: Text = "-"
    recipe: Text = "-"
    context_tokens: Size = 1
    note: Text = "-"
    vendor_claim: bool = False
    outdated: bool = False
    recalled: bool = False


class GateEntry(BaseModel):
    """A gate of ``quality.yaml``."""

    model_config = _STRICT
    id: Literal["fp8", "int8", "int4", "prune"]
    quality: _Quality
    perplexity_increase_ratio: _Share
    accuracy_drop_ratio: _Share
    needle_drop_ratio: _Share
    source: Text


class SpeedEntry(BaseModel):
    """A row of ``speed.yaml``."""

    model_config = _STRICT
    names: _Names
    context: Text
    source: _Names
    engine: Text = "-"
    head_dim: Size = 1
    capability_major: Size = 1
    efficiency_ratio: _Share = 1.0
    layer_overhead_seconds: _Share = 0.0
    throughput_ratio: Annotated[list[_Positive], Field(min_length=2, max_length=2)] = [1.0, 1.0]


TABLES: Mapping[str, Mapping[str, type[BaseModel]]] = {
    "matrix": {"rows": MatrixEntry, "rules": ClassicEntry},
    "rules": {"rules": RuleEntry},
    "quality": {"rows": QualityEntry, "gates": GateEntry},
    "speed": {"rows": SpeedEntry},
}
"""The lists of each file and what an entry of them may hold."""

_OTHER_KEYS = {"matrix": {"differences"}, "rules": {"options"}, "quality": {"methods"}, "speed": set()}


def check_table(name: str, values: Mapping[str, Any]) -> list[str]:
    """Every problem of one file, each with its path; a file without problems can be built."""
    lists = TABLES[name]
    known = {"sources", *lists, *_OTHER_KEYS[name]}
    problems = [f"{key}: unknown field; allowed: {', '.join(sorted(known))}" for key in values if key not in known]
    problems += [f"{key}: is missing" for key in sorted(known) if key not in values]
    for key, model in lists.items():
        problems += _list_problems(key, model, values.get(key, []))
    if name == "rules":
        problems += _option_problems(values.get("options", {}))
    return problems or list(_reference_problems(values, lists))


def _list_problems(key: str, model: type[BaseModel], entries: Any) -> list[str]:
    if not isinstance(entries, list):
        return [f"{key}: must be a list"]
    problems = []
    for index, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            problems += [f"{key}.{entry.get('id', index)}.{line}" for line in field_problems(model, entry)]
        else:
            problems.append(f"{key}.{index}: must be a mapping")
    return problems


def _option_problems(options: Any) -> list[str]:
    if not isinstance(options, Mapping):
        return ["options: must be a mapping"]
    return [
        f"options.{name}.{line}"
        for name, entry in options.items()
        for line in field_problems(OptionEntry, entry if isinstance(entry, Mapping) else {"label": entry})
    ]


def _reference_problems(values: Mapping[str, Any], lists: Mapping[str, type[BaseModel]]) -> Iterator[str]:
    """Sources and options that no entry defines, and pairs of scores that are half there."""
    options: Mapping[str, Any] | None = values.get("options")
    for key in lists:
        for index, entry in enumerate(values[key]):
            where = f"{key}.{entry.get('id', index)}"
            cited = entry.get("source", [])
            for source in [cited] if isinstance(cited, str) else cited:
                if source not in values["sources"]:
                    yield f"{where}.source: there is no source {source!r}"
            for option in (*entry.get("advice", ()), *entry.get("avoid", ())):
                if options is not None and option not in options:
                    yield f"{where}.advice: there is no option {option!r}"
            if ("baseline" in entry) != ("compressed" in entry):
                yield f"{where}: baseline and compressed go together"
            if "baseline" in entry and "loss_ratio" in entry:
                yield f"{where}.loss_ratio: follows from baseline and compressed"
