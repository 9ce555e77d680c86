"""vLLM's layer specs, groups and resolved options as plain JSON rows."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from vllm_releases import in_flight_tokens


def plain(value: Any) -> Any:
    """A JSON value for a spec's field: dtypes, enums, fractions and nested tuples by their plain names."""
    import torch

    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (int, float, str, bool)) or value is None:
        return value
    return str(value)


def describe(spec: Any, backend: str | None = None) -> dict[str, Any]:
    """A layer's spec as JSON: its type, its fields that differ from the class default, and its page size."""
    kept = {"block_size", "num_kv_heads", "head_size", "head_size_v", "mamba_type"}
    constant = {"kv_cache_specs", "dcp_sharded"}
    row: dict[str, Any] = {"type": type(spec).__name__}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        is_default = field.default is not dataclasses.MISSING and value == field.default
        if field.name in constant or (is_default and field.name not in kept):
            continue
        row[field.name] = plain(value)
    row["page_size_bytes"] = spec.page_size_bytes
    unpadded = getattr(spec, "unpadded_page_size_bytes", spec.page_size_bytes)
    if unpadded != spec.page_size_bytes:
        row["unpadded_page_size_bytes"] = unpadded
    if backend:
        row["backend"] = backend
    return row


def counted(rows: Iterable[dict[str, Any]], key: str = "n") -> list[dict[str, Any]]:
    """Equal rows once, each with how many there were, in order of first appearance."""
    counts = Counter(json.dumps(row) for row in rows)
    return [{key: count, **json.loads(text)} for text, count in counts.items()]


def describe_group(group: Any) -> dict[str, Any]:
    """A group of layers: how many, and what they share; the members of a mixed group with their counts."""
    fields = ("type block_size num_kv_heads head_size sliding_window attention_chunk_size page_size_bytes").split()

    def brief(spec: Any) -> dict[str, Any]:
        row = describe(spec)
        return {name: row[name] for name in fields if name in row}

    row = {"n_layers": len(group.layer_names), **brief(group.kv_cache_spec)}
    members = getattr(group.kv_cache_spec, "kv_cache_specs", None)
    if members is not None:
        row["members"] = counted(brief(spec) for spec in members.values())
    return row


def layer_rows(config: Any, specs: dict[str, Any]) -> list[dict[str, Any]]:
    """Equal layers once, each with how many there are and the attention backend that vLLM chose."""
    layers = config.compilation_config.static_forward_context
    return counted(describe(spec, layers[name].get_attn_backend().get_name()) for name, spec in specs.items())


def resolved(config: Any, layout: str | None) -> dict[str, Any]:
    """What vLLM made of the options: only what decides sizes."""
    cache, scheduler = config.cache_config, config.scheduler_config
    return {
        "dtype": plain(config.model_config.dtype),
        "cache_dtype": cache.cache_dtype,
        "block_size": cache.block_size,
        "max_model_len": config.model_config.max_model_len,
        "max_in_flight_tokens": in_flight_tokens(config),
        "prefix_caching": cache.enable_prefix_caching,
        "mamba_cache_mode": cache.mamba_cache_mode,
        "max_num_encoder_input_tokens": scheduler.max_num_encoder_input_tokens,
        "kv_cache_dtype_skip_layers": list(cache.kv_cache_dtype_skip_layers or ()),
        "layout": layout,
    }
