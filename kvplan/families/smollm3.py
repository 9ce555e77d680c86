"""SmolLM3: Llama's blocks where every fourth layer has no rotary embedding, which changes nothing in the cache.

If ``use_sliding_window`` is true and ``layer_types`` does not say otherwise, the layers without rotary embedding are
those that slide (transformers 5.23 ``models/smollm3/configuration_smollm3.py``).
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import check_length, decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, num_kv_heads=4, qkv_bias=bias, output_bias=bias)
    feed_forward = dense_feed_forward(
        shape.hidden_size, config.integer("intermediate_size"), config.flag("mlp_bias", default=False)
    )
    blocks = equal_blocks(shape, feed_forward, _read_windows(config, num_layers), norms=2 * shape.hidden_size)
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads, tied=True)


def _read_windows(config: ConfigReader, num_layers: int) -> list[int | None]:
    config.ignore("max_window_layers")  # Qwen's key, in the published file without a meaning
    every = config.integer("no_rope_layer_interval", default=4)
    rotary = config.integers("no_rope_layers")  # 1 where a layer has a rotary embedding, in spite of the name
    if config.has("layer_types"):
        return read_windows(config, num_layers, default_use=False)
    in_use = config.flag("use_sliding_window", default=False)
    window = config.optional_integer("sliding_window")
    if rotary is None:
        rotary = [int((layer + 1) % every != 0) for layer in range(num_layers)]
    check_length(config, "no_rope_layers", rotary, num_layers)
    return [window if in_use and not has_rotary else None for has_rotary in rotary]


FAMILY = Family(
    name="smollm3",
    model_types=("smollm3",),
    architectures=("SmolLM3ForCausalLM",),
    read=_read,
)
