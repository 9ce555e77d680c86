"""Laguna (Poolside): windowed and full layers by name, query heads per layer, gated attention, experts.

Shapes and class defaults: transformers 5.23 ``models/laguna``.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import headed_kind, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    check_length,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.mixture import read_sparse_layers
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, num_kv_heads=8, head_dim=128, qkv_bias=bias, output_bias=bias)
    num_layers = config.integer("num_hidden_layers")
    gating = config.value("gating", default=True)
    if gating not in (True, False, "per-head", "per-element"):
        config.wrong("gating", f"must be true, false, per-head or per-element, not {gating!r}")
    blocks = [
        Block(
            layer=(headed_kind(own, window),),
            attention=own.parameters() + _gate(own, gating),
            norms=2 * own.hidden_size + 2 * own.head_dim,
            feed_forward=feed,
        )
        for own, window, feed in zip(
            _read_shapes(config, shape, num_layers),
            # without layer types every layer is full, whatever the window says
            read_windows(config, num_layers, default_window=512, default_max_window_layers=num_layers),
            _read_feed_forwards(config, shape.hidden_size, num_layers),
        )
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_shapes(config: ConfigReader, shape: AttentionShape, num_layers: int) -> list[AttentionShape]:
    heads = config.integers("num_attention_heads_per_layer", minimum=1)
    if heads is None:
        return [shape] * num_layers
    check_length(config, "num_attention_heads_per_layer", heads, num_layers)
    for own in heads:
        if own % shape.num_kv_heads:
            config.wrong(
                "num_attention_heads_per_layer", f"has {own}, no multiple of the {shape.num_kv_heads} KV heads"
            )
    return [replace(shape, num_heads=own) for own in heads]


def _gate(shape: AttentionShape, gating: object) -> int:
    """The gate's projection: one logit per head, or per element of every head."""
    if gating is False:
        return 0
    per_head = gating is True or gating == "per-head"
    return linear(shape.hidden_size, shape.num_heads * (1 if per_head else shape.head_dim))


def _read_feed_forwards(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """The first layer is dense unless the config says otherwise; the router's balancing bias is a parameter here."""
    config.complete({"first_k_dense_replace": 1})
    dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    shape = read_mixture(
        config,
        hidden_size,
        config.integer("moe_intermediate_size"),
        shared_size=config.integer("shared_expert_intermediate_size", default=512, minimum=0),
    )
    mixture = mixture_feed_forward(shape, router_bias=True)
    return [mixture if is_sparse else dense for is_sparse in read_sparse_layers(config, num_layers)]


FAMILY = Family(
    name="laguna",
    model_types=("laguna",),
    architectures=("LagunaForCausalLM",),
    read=_read,
)
