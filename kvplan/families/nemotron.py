"""Nemotron 3 and 4, Minitron, and Jais 2: grouped attention, LayerNorm with a bias, ungated squared-ReLU block.

Shapes and defaults: transformers 5.23 ``models/nemotron`` and ``models/jais2``.
"""

from __future__ import annotations

from kvplan.core.classic_decoder import classic_blocks, read_plain_mlp
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("nemotron", "jais2")

_CLASSES = {
    "NemotronForCausalLM": "nemotron",
    "Jais2ForCausalLM": "jais2",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    biased = read_model_type(config, _MODEL_TYPES, _CLASSES) == "jais2"
    bias = config.flag("attention_bias", default=biased)
    shape = read_attention_shape(config, qkv_bias=bias, output_bias=bias)
    stated_width = config.integer("kv_channels", default=shape.head_dim)
    if stated_width != shape.head_dim:
        config.wrong("kv_channels", f"{stated_width} contradicts the head width {shape.head_dim}")
    feed_forward = read_plain_mlp(config, shape.hidden_size, config.flag("mlp_bias", default=biased))
    return decoder(
        config,
        classic_blocks(shape, feed_forward, [None] * config.integer("num_hidden_layers")),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=2 * shape.hidden_size,
    )


FAMILY = Family(
    name="nemotron",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
)
