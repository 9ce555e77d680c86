"""The strict frame of a spec, in pydantic: imported only when an external file is checked.

A kind's fields are checked by a model made from its dataclass, so a new kind needs no line here.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from kvplan.core.errors import near_hint
from kvplan.core.kinds import KINDS
from kvplan.core.kv_scheme import SCHEME_FORMATS, SCHEME_METHODS
from kvplan.core.model import Parameters
from kvplan.specs.simple_spec import is_simple, simple_problems
from kvplan.specs.spec_yaml import MAX_LAYERS, build_kind

MAX_NUMBER = 2**53
"""No count in a spec is larger; above it JSON readers lose digits."""

Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Size = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Depth = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Text = Annotated[str, Field(min_length=1)]
_STRICT = ConfigDict(strict=True, extra="forbid")


class Origin(BaseModel):
    """Where the numbers were read, and when; ``parameters`` names what counted them, if not the config alone."""

    model_config = _STRICT
    url: Text | None = None
    file: Text | None = None
    revision: Text | None = None
    parameters: Text | None = None
    date: datetime.date | Text


class Group(BaseModel):
    """A pattern of layers and how often it repeats."""

    model_config = _STRICT
    pattern: Annotated[list[Text], Field(min_length=1)]
    repeat: Depth = 1


def _parameter_fields() -> dict[str, Any]:
    counted = {entry.name: (Count, 0) for entry in dataclasses.fields(Parameters)}
    active = {"active": (Count | None, None), "total": (Count, ...)}
    return {**counted, **active, "certainty": (Literal["exact", "rule", "published"], "rule")}


ParameterCounts = create_model("ParameterCounts", __config__=_STRICT, **_parameter_fields())


class LayerWidths(BaseModel):
    """The fields of ``Widths``."""

    model_config = _STRICT
    vocab_size: Size
    intermediate_size: Count = 0
    gated: bool = True
    num_experts: Count = 0
    experts_per_token: Count = 0
    moe_intermediate_size: Count = 0
    shared_intermediate_size: Count = 0
    q_lora_rank: Count = 0
    qk_nope_head_dim: Count = 0
    v_head_dim: Count = 0
    index_num_heads: Count = 0
    tied_embeddings: bool = False
    dense_layers: list[Count] = []


class Weights(BaseModel):
    """How the weights are stored."""

    model_config = _STRICT
    format: Text | None = None
    bytes: Count | None = None
    parameters: Count | None = None


class Expectation(BaseModel):
    """Figures that the tests hold the spec against."""

    model_config = _STRICT
    bytes_per_token: Count
    fixed_bytes: Count = 0


class Common(BaseModel):
    """Fields of both forms of a spec."""

    model_config = _STRICT
    name: Text
    aliases: list[Text] = []
    family: Text = "spec"
    architecture_class: Text | None = None
    dtype: Literal["bf16", "fp16"] = "bf16"
    kv_scheme: Literal[SCHEME_FORMATS] | None = None  # type: ignore[valid-type]
    kv_scheme_method: Literal[SCHEME_METHODS] | None = None  # type: ignore[valid-type]
    max_context_tokens: Size | None = None
    num_layers: Depth
    hidden_size: Size
    weights: Weights = Weights()
    expect: Expectation | None = None
    notes: list[Text] = []


class Spec(Common):
    """The full form."""

    source: Origin
    num_heads: Size | None = None
    encoder_tokens: Size | None = None
    num_encoder_layers: Depth | None = None
    kinds: dict[str, dict[str, Any]]
    layers: Annotated[list[Group], Field(min_length=1)]
    draft_layers: list[Group] = []
    parameters: ParameterCounts | None = None  # type: ignore[valid-type]
    widths: LayerWidths | None = None


class SimpleSpec(Common):
    """The short form: every layer the same."""

    source: Origin | None = None
    num_heads: Size
    num_kv_heads: Size | None = None
    head_dim: Size | None = None
    v_head_dim: Size | None = None
    window: Size | None = None
    kv_lora_rank: Size | None = None
    qk_rope_head_dim: Count | None = None
    vocab_size: Size | None = None
    intermediate_size: Size | None = None
    tie_word_embeddings: bool = False


def check_spec(mapping: Mapping[str, Any]) -> list[str]:
    """Every problem of a spec's fields, each with its path. A spec without problems can be built."""
    if is_simple(mapping):
        problems = _problems(SimpleSpec, mapping, "")
        problems += [f"{name}: must not be empty" for name, value in mapping.items() if value is None]
        return problems + simple_problems(mapping)
    problems = _problems(Spec, mapping, "")
    kinds = mapping.get("kinds")
    for name, fields in kinds.items() if isinstance(kinds, Mapping) else ():
        problems += _kind_problems(name, fields)
    problems += _source_problems(mapping.get("source"))
    return problems


def field_problems(model: type[BaseModel], mapping: Mapping[str, Any]) -> list[str]:
    """Every problem of a mapping that a flat model describes, each with its path."""
    return _problems(model, mapping, "")


@cache
def kind_model(kind: str) -> type[BaseModel]:
    """The pydantic model of a kind: its dataclass's fields, strict, nothing else allowed."""
    hints = get_type_hints(KINDS[kind])
    fields: dict[str, Any] = {"kind": (Literal[kind], ...)}
    fields |= {
        entry.name: (hints[entry.name], ... if entry.default is dataclasses.MISSING else entry.default)
        for entry in dataclasses.fields(KINDS[kind])
    }
    return create_model(KINDS[kind].__name__, __config__=_STRICT, **fields)


def _kind_problems(name: object, fields: object) -> list[str]:
    path = f"kinds.{name}"
    if not isinstance(name, str) or not name or not name.replace("_", "").isalnum():
        return [f"{path}: a kind's name has letters, digits and _ only"]
    if not isinstance(fields, Mapping):
        return []  # the frame has said so
    kind = fields.get("kind")
    if kind is None:
        return [f"{path}.kind: is missing; allowed: {', '.join(sorted(KINDS))}"]
    if not isinstance(kind, str) or kind not in KINDS:
        return [f"{path}.kind: unknown kind {str(kind)[:40]!r}; {near_hint(str(kind)[:40], KINDS)}"]
    problems = _problems(kind_model(kind), fields, f"{path}.")
    if not problems:
        try:
            build_kind(fields)
        except ValueError as error:  # the dataclass's own range checks
            problems = [f"{path}: {error}"]
    return problems


def _source_problems(source: object) -> list[str]:
    if isinstance(source, Mapping) and not source.keys() & {"url", "file"}:
        return ["source: needs a url or a file"]
    return []


def _problems(model: type[BaseModel], values: Mapping[str, Any], path: str) -> list[str]:
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return list(
            dict.fromkeys(_line(model, problem["loc"], problem["type"], problem["msg"], path) for problem in found)
        )
    return []


def _line(model: type[BaseModel], place: tuple[int | str, ...], kind: str, message: str, path: str) -> str:
    where = path + ".".join(str(step)[:60] for step in place)
    if kind == "extra_forbidden":
        allowed = _fields_at(model, place[:-1])
        return f"{where}: unknown field; {near_hint(str(place[-1])[:60], allowed)}"
    if kind == "missing":
        return f"{where}: is missing"
    return f"{where}: {message.replace('Input should be', 'must be').replace('Input', 'it')}"


def _fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The fields allowed at a place of a spec: those of the model that the path leads to."""
    nested: dict[str, type[BaseModel]] = {
        "source": Origin, "layers": Group, "draft_layers": Group, "parameters": ParameterCounts,
        "widths": LayerWidths, "weights": Weights, "expect": Expectation,
    }  # fmt: skip
    return list((nested.get(str(place[0]), model) if place else model).model_fields)
