"""Gemma 3n's text model: shared caches of the last layers, per-layer inputs, AltUp streams and LAuReL blocks.

Class defaults and shapes: transformers 5.23 ``models/gemma3n``. Engines load all parameters; the "effective" size in
a model's name (E2B, E4B) leaves out the per-layer embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.attention import Shared
from kvplan.core.attention_layout import FULL, SLIDING, headed_kind, read_layer_types
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import (
    Block,
    check_length,
    decoder,
    dense_feed_forward,
    read_attention_shape,
    read_defaulted,
)
from kvplan.core.family import Family
from kvplan.core.kv_sharing import query_and_output, shared_sources
from kvplan.core.model import Architecture, Layer

_DEFAULTS = {
    "num_attention_heads": 8,
    "vocab_size": 262_400,
    "max_position_embeddings": 32_768,
    "sliding_window": 512,
    "num_kv_shared_layers": 15,
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": 262_144,
    "altup_num_inputs": 4,
    "laurel_rank": 64,
}
"""Sizes that a file may leave to the class."""


def _read(config: ConfigReader) -> Architecture:
    config.complete({name: read_defaulted(config, name, default) for name, default in _DEFAULTS.items()})
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, num_kv_heads=2, head_dim=256, qkv_bias=bias, output_bias=bias)
    num_layers = config.integer("num_hidden_layers")
    types = read_layer_types(config, num_layers) or [
        SLIDING if (layer + 1) % 5 else FULL for layer in range(num_layers)
    ]
    sources = shared_sources(config, types, config.integer("num_kv_shared_layers", minimum=0))
    window = config.integer("sliding_window")
    input_size = config.integer("hidden_size_per_layer_input")
    extra = _layer_extras(config, shape.hidden_size, input_size)
    blocks = [
        Block(
            layer=_layer(shape, entry, window, layer, sources),
            attention=query_and_output(shape) if layer in sources else shape.parameters(),
            norms=7 * shape.hidden_size + (1 if layer in sources else 2) * shape.head_dim,
            feed_forward=dense_feed_forward(shape.hidden_size, size),
            other=extra,
        )
        for layer, (entry, size) in enumerate(zip(types, _read_sizes(config, num_layers)))
    ]
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=shape.hidden_size + input_size,
        other=_model_extras(config, num_layers, shape.hidden_size, input_size),
    )


def _layer(shape: AttentionShape, layer_type: str, window: int, layer: int, sources: dict[int, int | None]) -> Layer:
    if layer in sources:
        return (Shared(source_layer=sources[layer]),)
    return (headed_kind(shape, None if layer_type == FULL else window),)


def _read_sizes(config: ConfigReader, num_layers: int) -> Sequence[int]:
    """``intermediate_size``: one number, or one per layer."""
    if isinstance(config.value("intermediate_size"), list):
        sizes = config.integers("intermediate_size", minimum=1) or []
        check_length(config, "intermediate_size", sizes, num_layers)
        return sizes
    return [config.integer("intermediate_size")] * num_layers


def _layer_extras(config: ConfigReader, hidden: int, input_size: int) -> int:
    """Per layer: gate and projection of its input, LAuReL's two projections, AltUp's coefficients and router.

    The seven norms of the residual width (four, LAuReL's, the input's, AltUp's) are counted as norms.
    """
    streams = config.integer("altup_num_inputs")
    rank = config.integer("laurel_rank")
    altup = hidden + streams * streams + streams**3 + hidden * streams
    return 2 * hidden * input_size + 2 * hidden * rank + altup


def _model_extras(config: ConfigReader, num_layers: int, hidden: int, input_size: int) -> int:
    """The per-layer embedding with its projection, and the projections into and out of AltUp's other streams."""
    rows = config.integer("vocab_size_per_layer_input")
    streams = 2 * (config.integer("altup_num_inputs") - 1) * hidden * hidden
    return num_layers * input_size * (rows + hidden) + streams


FAMILY = Family(
    name="gemma3n",
    model_types=("gemma3n_text",),
    architectures=("Gemma3nForCausalLM",),
    read=_read,
    neutral_keys=frozenset({"activation_sparsity_pattern"}),
)
