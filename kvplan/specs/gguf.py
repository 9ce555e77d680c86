"""A ``.gguf`` file becomes a Model: layers from its keys, weights exactly from its tensor descriptions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvplan.core.config_reader import ConfigReader
from kvplan.core.errors import FileError, SpecError, UnknownArchitectureError, near_hint
from kvplan.core.model import Architecture, Model, Parameters, WeightsOnDisk
from kvplan.specs.ggml_types import FILE_TYPES
from kvplan.specs.gguf_header import GgufHeader, TensorInfo, read_gguf_header
from kvplan.specs.gguf_layers import known_architectures, read_architecture
from kvplan.specs.gguf_widths import read_widths

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_BLOCK = re.compile(r"blk\.(\d+)\.")
_PARTS = (
    ("norms", re.compile(r"norm|_scale$|\.scale$")),
    ("embedding", re.compile(r"^(token_embd|position_embd|token_types|per_layer_token_embd)\b")),
    ("output_head", re.compile(r"^output\b")),
    ("routers", re.compile(r"ffn_gate_inp|exp_probs")),
    ("experts", re.compile(r"ffn_\w+_exps\b")),
    ("mlp", re.compile(r"ffn_|channel_mix")),
    ("state", re.compile(r"ssm_|time_mix|shortconv")),
    ("attention", re.compile(r"attn_|indexer")),
)
"""The part of Parameters that a tensor belongs to: the first pattern found in its name."""


def read_gguf(path: Path) -> Model:
    """The Model of a GGUF file; of a split one, any shard will do as long as the first lies beside it.

    Raises FileError for a file that is no sound GGUF, UnknownArchitectureError for an architecture without rules.
    """
    header = read_gguf_header(path)
    shards, missing = _shards(path, header)
    if shards[0] != path:
        header = read_gguf_header(shards[0])
    values, name = header.metadata, _architecture_name(header, path)
    reader = ConfigReader(_keys_below(values, name), str(path), path=f"{name}.")
    try:
        architecture = read_architecture(reader, name)
    except ValueError as error:  # a layer kind's own range check
        raise SpecError(str(path), [f"{name}: {error}"]) from None
    notes = [*architecture.notes]
    weights = WeightsOnDisk(weight_format=_weight_format(header))
    if missing:
        notes.append(f"the weights are not counted: {missing[0]} is missing ({len(missing)} of the shards)")
    else:
        headers = [header, *(read_gguf_header(shard) for shard in shards[1:])]
        tensors = [tensor for one in headers for tensor in one.tensors]
        weights = _count_weights(weights, tensors)
        parameters = _count_parameters(reader, architecture, tensors)
        widths = read_widths(reader, architecture.hidden_size, parameters, tensors)
        architecture = replace(architecture, parameters=parameters, widths=widths)
        if not all(one.has_data for one in headers):
            notes.append("the file ends behind its header: the weights are as the header describes them")
    return Model(
        name=_text(values, "general.name") or path.stem,
        source=str(path),
        family=name,
        dtype="bf16" if values.get("general.file_type") == 32 else "fp16",
        architecture=replace(architecture, notes=tuple(notes)),
        weights=weights,
    )


def shard_set(path: Path) -> str:
    """What the files of one split model have in common: the name without the shard number."""
    match = _SHARD.fullmatch(path.name)
    return f"{match[1]}-of-{match[3]}" if match else path.name


def _shards(path: Path, header: GgufHeader) -> tuple[list[Path], list[str]]:
    """Every shard of the model, first one first, and the names of those that are not there."""
    count = header.metadata.get("split.count", 1)
    match = _SHARD.fullmatch(path.name)
    if not isinstance(count, int) or count <= 1:
        return [path], []
    if match is None or int(match[3]) != count:
        return [path], [f"one of {count} shards, whose names do not follow from {path.name!r},"]
    names = [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, count + 1)]
    present = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    return present, [name for name in names if not path.with_name(name).is_file()]


def _architecture_name(header: GgufHeader, path: Path) -> str:
    name = _text(header.metadata, "general.architecture")
    if name is None:
        if header.metadata.get("split.no", 0):
            raise FileError(f"{path}: is a later shard of a split model, and the first is not beside it")
        raise FileError(f"{path}: lacks the key 'general.architecture'")
    if name not in known_architectures():
        raise UnknownArchitectureError(
            str(path),
            [f"the GGUF architecture {name!r} is unknown"],
            f"{near_hint(name, known_architectures())}; or give the model's config.json, or write a spec",
        )
    return name


def _keys_below(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in values.items() if key.startswith(prefix)}


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) and value.strip() else None


def _weight_format(header: GgufHeader) -> str | None:
    """The name of ``general.file_type``; without it, the type that holds most bytes."""
    stated = header.metadata.get("general.file_type")
    if isinstance(stated, int) and stated in FILE_TYPES:
        return FILE_TYPES[stated]
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.type_name] += tensor.size_bytes
    return sizes.most_common(1)[0][0] if sizes else None


def _count_weights(weights: WeightsOnDisk, tensors: Iterable[TensorInfo]) -> WeightsOnDisk:
    sizes = [(tensor.size_bytes, tensor.elements) for tensor in tensors]
    if not sizes:
        return weights
    return replace(
        weights, exact_bytes=sum(size for size, _ in sizes), exact_parameters=sum(count for _, count in sizes)
    )


def _count_parameters(
    reader: ConfigReader, architecture: Architecture, tensors: Iterable[TensorInfo]
) -> Parameters | None:
    """Parameters by part, from the names of the tensors. Draft layers are counted apart."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        block = _BLOCK.match(tensor.name)
        is_draft = block is not None and int(block[1]) >= architecture.num_layers
        counts["mtp" if is_draft else _part(tensor.name)] += tensor.elements
    if not counts:
        return None
    parameters = Parameters(**counts, certainty="exact")
    num_experts = reader.optional_integer("expert_count", minimum=0)
    num_used = reader.optional_integer("expert_used_count", minimum=0)
    if not parameters.experts or not num_experts or num_used is None:
        return parameters
    idle = parameters.experts * max(num_experts - num_used, 0) // num_experts
    return replace(parameters, active=parameters.total - idle)


def _part(name: str) -> str:
    return next((part for part, pattern in _PARTS if pattern.search(name)), "other")
