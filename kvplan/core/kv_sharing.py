"""Layers that read an earlier layer's keys and values and store none: Gemma 3n, Gemma 4, Hunyuan-Large."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear


def shared_sources(config: ConfigReader, types: Sequence[str], num_shared: int) -> dict[int, int | None]:
    """For each of the last ``num_shared`` layers the layer it reads: the last storing layer of its own type.

    A model that shares all its layers (a draft assistant) reads another model's cache: its sources are None.
    Raises SpecError where a layer type has no storing layer, or more layers are shared than exist. Rule:
    transformers 5.23 ``Gemma4TextConfig.kv_sharing_modes``.
    """
    num_storing = len(types) - num_shared
    if num_storing < 0:
        config.wrong("num_kv_shared_layers", f"is {num_shared}, more than the {len(types)} layers")
    if num_storing == 0:
        return dict.fromkeys(range(len(types)))
    last = {entry: layer for layer, entry in enumerate(types[:num_storing])}
    for layer in range(num_storing, len(types)):
        if types[layer] not in last:
            config.wrong("num_kv_shared_layers", f"leaves no {types[layer]} layer that stores what layer {layer} reads")
    return {layer: last[types[layer]] for layer in range(num_storing, len(types))}


def query_and_output(shape: AttentionShape) -> int:
    """Parameters of the attention of a layer that has no key and value projections of its own."""
    keys_and_values = 2 * linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, shape.qkv_bias)
    return shape.parameters() - keys_and_values
