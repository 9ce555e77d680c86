"""A ``config.json`` becomes a Model: finds the family, lets it read, and refuses what nobody understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvplan.core.config_reader import ConfigReader
from kvplan.core.errors import FileError, SpecError, UnknownArchitectureError
from kvplan.core.family import Family
from kvplan.core.kv_scheme import kv_scheme_of
from kvplan.core.model import Architecture, Model, WeightsOnDisk
from kvplan.core.quantization_config import weight_format_of
from kvplan.families import all_families
from kvplan.specs.json_file import load_json_object
from kvplan.specs.neutral_keys import NEUTRAL_KEYS, looks_structural

MAX_CONFIG_BYTES = 16 * 1024**2
"""Real configs are below 100 KB; anything above this is not one."""

QUANTIZATION_FILE = "hf_quant_config.json"

PLAIN_DECODER = "llama"
"""The family that may read an architecture nobody claims, if it understands every key."""


def load_config(path: Path) -> dict[str, Any]:
    """The mapping in a config file. Raises FileError when it is no JSON object."""
    return load_json_object(path, "a model config", MAX_CONFIG_BYTES)


def load_checkpoint_config(path: Path) -> dict[str, Any]:
    """The mapping in a config file, completed by the ``hf_quant_config.json`` beside a ``config.json``.

    ModelOpt up to 0.29 wrote its quantization there; engines read it only where the config has none (vLLM 0.32
    ``transformers_utils/config.py``). Raises FileError when the config is no JSON object.
    """
    values = load_config(path)
    beside = path.with_name(QUANTIZATION_FILE)
    if path.name != "config.json" or values.get("quantization_config") is not None or not beside.is_file():
        return values
    try:
        stated = load_json_object(beside, "a quantization config", MAX_CONFIG_BYTES)
    except FileError:  # the model is sound without it: the note on the method says what is missing
        stated = {"quant_method": f"{QUANTIZATION_FILE} is malformed"}
    return {**values, "quantization_config": {"quant_method": "modelopt", **stated}}


def read_config(values: Mapping[str, Any], source: str, name: str) -> Model:
    """The Model of a config. Raises SpecError, MissingKeyError or UnknownArchitectureError with the key at fault."""
    reader = ConfigReader(values, source, resolve=_read_nested)
    family, architecture = _read(reader)
    quantization, expert_dtype = _quantization(values)
    weight_format, weight_notes = _weight_format(quantization, expert_dtype)
    scheme = kv_scheme_of(quantization)
    dtype, dtype_notes = _compute_dtype(values)
    notes = (*architecture.notes, *reader.notes, *weight_notes, *scheme.notes, *dtype_notes)
    return Model(
        name=name,
        source=source,
        family=family.name,
        dtype=dtype,
        architecture=replace(architecture, notes=tuple(dict.fromkeys(notes))),
        architecture_class=next(iter(_class_names(values)), None),
        weights=WeightsOnDisk(weight_format=weight_format),
        kv_scheme=scheme.cache_format,
        kv_scheme_method=scheme.method,
    )


def _quantization(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """The ``quantization_config``, empty where there is none, and the ``expert_dtype`` beside it."""
    for mapping in (values, values.get("text_config"), values.get("llm_config")):
        if not isinstance(mapping, Mapping):
            continue
        stated = mapping.get("quantization_config") or mapping.get("compression_config")
        if isinstance(stated, Mapping):
            expert_dtype = mapping.get("expert_dtype")
            return stated, expert_dtype if isinstance(expert_dtype, str) else None
    return {}, None


def _weight_format(quantization: Mapping[str, Any], expert_dtype: str | None) -> tuple[str | None, tuple[str, ...]]:
    name = weight_format_of(quantization, expert_dtype)
    if name is not None or not quantization:
        return name, ()
    method = str(quantization.get("quant_method") or "unnamed")[:40]
    return None, (f"the weights' quantization ({method}) is not known: they are counted in 16 bits (--weights)",)


def _compute_dtype(values: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The 16-bit dtype that engines compute in, and what was assumed about it.

    float16 where the config says so, else bfloat16: vLLM, SGLang and TensorRT-LLM serve float32 checkpoints in 16 bits.
    """
    for mapping in (values, values.get("text_config"), values.get("llm_config")):
        if isinstance(mapping, Mapping):
            stated = mapping.get("torch_dtype") or mapping.get("dtype")
            if isinstance(stated, str):
                return _sixteen_bits(stated.rpartition(".")[2])
    return "bf16", ("the config states no dtype: bf16 is assumed (--kv-dtype)",)


def _sixteen_bits(stated: str) -> tuple[str, tuple[str, ...]]:
    if stated in ("float16", "half", "fp16"):
        return "fp16", ()
    if stated in ("bfloat16", "bf16"):
        return "bf16", ()
    return "bf16", (f"the config states {stated[:20]}: bf16 is counted, as engines serve it (--kv-dtype)",)


def _read_nested(reader: ConfigReader, model_type: str | None) -> Architecture:
    if model_type is not None:
        reader.complete({"model_type": model_type})
    architecture = _read(reader, model_type)[1]
    reader.settle()  # judged here, by its own family: the enclosing config need not know its keys
    return replace(architecture, notes=tuple(dict.fromkeys((*architecture.notes, *reader.notes))))


def _read(reader: ConfigReader, model_type: str | None = None) -> tuple[Family, Architecture]:
    family = _claiming_family(reader, reader.values.get("model_type") or model_type)
    try:
        architecture = (family or _plain_decoder()).read(reader)
    except ValueError as error:  # a layer kind's own range check
        raise SpecError(reader.source, [f"{reader.path or 'config'}: {error}"]) from None
    _refuse_unread(reader, family)
    return family or _plain_decoder(), architecture


def _class_names(values: Mapping[str, Any]) -> list[str]:
    """The model classes that a config names; engines take the first, which is nearly always the only one."""
    names = values.get("architectures")
    return [name for name in names if isinstance(name, str) and name] if isinstance(names, list) else []


def _claiming_family(reader: ConfigReader, model_type: object) -> Family | None:
    architectures = _class_names(reader.values)
    for family in all_families():
        if model_type in family.model_types:
            return family
    for family in all_families():
        if any(name in family.architectures for name in architectures):
            return family
    for family in all_families():
        if family.claims is not None and family.claims(reader):
            return family
    return None


def _plain_decoder() -> Family:
    return next(family for family in all_families() if family.name == PLAIN_DECODER)


def _refuse_unread(reader: ConfigReader, family: Family | None) -> None:
    neutral = NEUTRAL_KEYS | (family or _plain_decoder()).neutral_keys
    unknown = [key for key, value in reader.unread().items() if value and key.rpartition(".")[2] not in neutral]
    if family is not None:
        unknown = [key for key in unknown if looks_structural(key)]
    if not unknown:
        return
    named = _class_names(reader.values)
    what = reader.values.get("model_type") or (named[0] if named else "no model_type")
    raise UnknownArchitectureError(
        reader.source,
        [f"{what}: the key {key!r} is unknown and could change the cache" for key in sorted(unknown)],
        "write a spec for this model (model_specs/README.md shows how), or report the architecture",
    )
