"""gpt-oss: windowed and full layers in turn, biased experts in every layer, one learned sink logit per query head.

The sinks are parameters and store nothing. Shapes and class defaults: transformers 5.23 ``models/gpt_oss``.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import headed_kind, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import gated_mlp
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    mixture_feed_forward,
    read_attention_shape,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    bias = config.flag("attention_bias", default=True)
    shape = read_attention_shape(config, num_kv_heads=8, head_dim=64, qkv_bias=bias, output_bias=bias)
    num_layers = config.integer("num_hidden_layers")
    feed = _read_experts(config, shape.hidden_size)
    if not config.has("layer_types"):
        config.complete({"sliding_window_pattern": 2})  # the class's own: every second layer is full
    blocks = [
        Block(
            layer=(headed_kind(shape, window),),
            attention=shape.parameters() + shape.num_heads,
            norms=2 * shape.hidden_size,
            feed_forward=feed,
        )
        for window in read_windows(config, num_layers, default_window=128)
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_experts(config: ConfigReader, hidden_size: int) -> FeedForward:
    size = config.integer("intermediate_size")
    shape = read_mixture(config, hidden_size, size, num_active=("num_experts_per_tok", "experts_per_token"))
    expert = gated_mlp(hidden_size, size, bias=True)
    return replace(
        mixture_feed_forward(shape, router_bias=True),
        experts=shape.num_experts * expert,
        idle=(shape.num_experts - shape.num_active) * expert,
    )


FAMILY = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
    architectures=("GptOssForCausalLM",),
    read=_read,
)
