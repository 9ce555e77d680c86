"""AFMoE (Arcee Trinity): every n-th layer is full, the others slide; gated attention; dense layers, then experts.

Shapes and class defaults: transformers 5.23 ``models/afmoe``.
"""

from __future__ import annotations

from kvplan.core.attention_layout import FULL, SLIDING, headed_kind, read_layer_types
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
    read_defaulted,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, head_dim=128, qkv_bias=bias, output_bias=bias)
    num_layers = config.integer("num_hidden_layers")
    gate = linear(shape.hidden_size, shape.num_heads * shape.head_dim)
    blocks = [
        Block(
            layer=(headed_kind(shape, window),),
            attention=shape.parameters() + gate,
            norms=4 * shape.hidden_size + 2 * shape.head_dim,
            feed_forward=feed,
        )
        for window, feed in zip(
            _read_windows(config, num_layers), _read_feed_forwards(config, shape.hidden_size, num_layers)
        )
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_windows(config: ConfigReader, num_layers: int) -> list[int | None]:
    every = config.integer("global_attn_every_n_layers", default=4)
    types = read_layer_types(config, num_layers) or [
        SLIDING if (layer + 1) % every else FULL for layer in range(num_layers)
    ]
    window = read_defaulted(config, "sliding_window", 1024)
    return [window if entry == SLIDING else None for entry in types]


def _read_feed_forwards(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """``num_dense_layers`` dense layers first. The routers' balancing bias is a parameter in this model's code."""
    num_dense = min(config.integer("num_dense_layers", default=1, minimum=0), num_layers)
    dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    expert_size = config.integer("moe_intermediate_size")
    num_shared = config.integer("num_shared_experts", default=2, minimum=0)
    shape = read_mixture(config, hidden_size, expert_size, shared_size=num_shared * expert_size)
    mixture = mixture_feed_forward(shape, router_bias=True)
    return [dense] * num_dense + [mixture] * (num_layers - num_dense)


FAMILY = Family(
    name="afmoe",
    model_types=("afmoe",),
    architectures=("AfmoeForCausalLM",),
    read=_read,
)
