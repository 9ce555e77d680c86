"""Qwen's mixtures of experts with ordinary attention: Qwen1.5-MoE, Qwen2-MoE, Qwen3-MoE and the text of Qwen3-VL-MoE.

Layers in ``mlp_only_layers``, and those that ``decoder_sparse_step`` does not divide, have a dense feed-forward part.
Class defaults and shapes: transformers 5.23, ``models/qwen2_moe`` and ``models/qwen3_moe``.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import SLIDING, headed_kind, read_layer_types
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
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

_QWEN2 = "qwen2_moe"


def _read(config: ConfigReader) -> Architecture:
    is_qwen2 = config.text("model_type", default="qwen3_moe") == _QWEN2
    shape = _read_attention(config, is_qwen2)
    num_layers = config.integer("num_hidden_layers")
    sparse = _sparse_layers(config, num_layers)
    mixture = _read_experts(config, shape.hidden_size) if any(sparse) else None
    dense = dense_feed_forward(
        shape.hidden_size, config.integer("intermediate_size", default=0 if all(sparse) else None)
    )
    feeds = [mixture if mixture is not None and is_sparse else dense for is_sparse in sparse]
    norms = 2 * shape.hidden_size + (0 if is_qwen2 else 2 * shape.head_dim)
    windows = _read_windows(config, num_layers, is_qwen2)
    blocks = [
        Block(layer=(headed_kind(shape, window),), attention=shape.parameters(), norms=norms, feed_forward=feed)
        for window, feed in zip(windows, feeds)
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_attention(config: ConfigReader, is_qwen2: bool) -> AttentionShape:
    """Qwen2-MoE biases queries, keys and values (``qkv_bias``); Qwen3-MoE all four projections, if any."""
    if is_qwen2:
        return read_attention_shape(config, num_kv_heads=16, qkv_bias=config.flag("qkv_bias", default=True))
    bias = config.flag("attention_bias", default=False)
    return read_attention_shape(config, num_kv_heads=4, qkv_bias=bias, output_bias=bias)


def _sparse_layers(config: ConfigReader, num_layers: int) -> list[bool]:
    dense = set(config.integers("mlp_only_layers") or ())
    step = config.integer("decoder_sparse_step", default=1)
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(num_layers)]


def _read_experts(config: ConfigReader, hidden_size: int) -> FeedForward:
    """Routed experts and, where it has a size, the shared expert with its gate of one logit."""
    shared = config.integer("shared_expert_intermediate_size", default=0, minimum=0)
    experts = read_mixture(config, hidden_size, config.integer("moe_intermediate_size"), shared_size=shared)
    feed = mixture_feed_forward(experts)
    return replace(feed, router=feed.router + (hidden_size if shared else 0))


def _read_windows(config: ConfigReader, num_layers: int, is_qwen2: bool) -> list[int | None]:
    """The window of every layer, None for all of them unless ``use_sliding_window`` is set; no published file does.

    Without ``layer_types`` a Qwen3-MoE slides everywhere, a Qwen2-MoE in every other layer below ``max_window_layers``.
    """
    in_use = config.flag("use_sliding_window", default=False)
    config.ignore("sliding_window")  # Qwen writes a number down even where it is not in use
    window = read_defaulted(config, "sliding_window", 4096) if in_use else None
    below = config.integer("max_window_layers", default=28, minimum=0)
    types = read_layer_types(config, num_layers)
    if types is not None:
        slides = [entry == SLIDING for entry in types]
    else:
        slides = [not is_qwen2 or (layer % 2 == 0 and layer < below) for layer in range(num_layers)]
    return [window if slide else None for slide in slides]


FAMILY = Family(
    name="qwen_moe",
    model_types=("qwen2_moe", "qwen3_moe", "qwen3_vl_moe_text", "qwen3_omni_moe_text"),
    architectures=("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"),
    read=_read,
    neutral_keys=frozenset({"use_qk_norm", "qkv_bias"}),
)
