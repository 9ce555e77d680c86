"""Llama 4's text model: layers with rotary embeddings attend inside chunks, those without attend to everything.

Shapes and class defaults: transformers 5.23 ``models/llama4`` (``Llama4TextConfig``).
"""

from __future__ import annotations

from kvplan.core.attention import ChunkedLocal, HeadedKind
from kvplan.core.attention_layout import FULL, headed_kind, read_layer_types
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import (
    Block,
    FeedForward,
    check_length,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
    read_defaulted,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.model import Architecture

_CHUNKED = "chunked_attention"


def _read(config: ConfigReader) -> Architecture:
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, num_kv_heads=8, head_dim=128, qkv_bias=bias, output_bias=bias)
    num_layers = config.integer("num_hidden_layers")
    blocks = [
        Block(layer=(kind,), attention=shape.parameters(), norms=2 * shape.hidden_size, feed_forward=feed)
        for kind, feed in zip(
            _read_kinds(config, shape, num_layers), _read_feed_forwards(config, shape.hidden_size, num_layers)
        )
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_kinds(config: ConfigReader, shape: AttentionShape, num_layers: int) -> list[HeadedKind]:
    full = headed_kind(shape)
    chunk_size = read_defaulted(config, "attention_chunk_size", 8192)
    types = read_layer_types(config, num_layers, (FULL, _CHUNKED))
    by_rope = _read_types(config, num_layers)
    if chunk_size is None:  # a stated null: attention is not cut
        return [full] * num_layers
    chunked = ChunkedLocal(num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim, chunk_size=chunk_size)
    return [chunked if entry == _CHUNKED else full for entry in types or by_rope]


def _read_types(config: ConfigReader, num_layers: int) -> list[str]:
    """``no_rope_layers`` holds 1 for a layer *with* rotary embeddings; empty means every n-th layer has none."""
    every = config.integer("no_rope_layer_interval", default=4)
    has_rope = config.integers("no_rope_layers") or [(layer + 1) % every for layer in range(num_layers)]
    check_length(config, "no_rope_layers", has_rope, num_layers)
    return [_CHUNKED if entry else FULL for entry in has_rope]


def _read_feed_forwards(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """Every ``interleave_moe_layer_step``-th layer has experts and a shared one of their size; the rest are dense."""
    step = config.integer("interleave_moe_layer_step", default=1)
    listed = config.integers("moe_layers")
    sparse = set(range(step - 1, num_layers, step) if listed is None else listed)
    size = config.integer("intermediate_size")
    dense_size = config.integer("intermediate_size_mlp", default=0 if len(sparse) >= num_layers else None)
    dense = dense_feed_forward(hidden_size, dense_size)
    if not sparse:
        return [dense] * num_layers
    mixture = mixture_feed_forward(read_mixture(config, hidden_size, size, shared_size=size))
    return [mixture if layer in sparse else dense for layer in range(num_layers)]


FAMILY = Family(
    name="llama4",
    model_types=("llama4_text",),
    architectures=("Llama4ForCausalLM",),
    read=_read,
    neutral_keys=frozenset({"attn_scale", "attn_temperature_tuning", "for_llm_compressor"}),
)
