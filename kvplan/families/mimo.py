"""MiMo-V2 (Xiaomi): full layers with few KV heads between windowed layers with more; keys wider than values.

Learned sinks of the windowed layers are parameters and store nothing. Keys: the published remote code, which vLLM
reads alike; where a config leaves ``swa_*`` out, transformers 5.23 ``models/mimo_v2_flash`` doubles the KV heads.
"""

from __future__ import annotations

from kvplan.core.attention_layout import FULL, SLIDING, headed_kind, read_layer_types
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import (
    Block,
    FeedForward,
    check_length,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_mixture,
)
from kvplan.core.draft_layers import read_draft_count
from kvplan.core.family import Family
from kvplan.core.mixture import read_sparse_layers
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    full = _read_full_shape(config)
    sliding = _read_sliding_shape(config, full)
    feeds = _read_feed_forwards(config, full.hidden_size, num_layers)
    types = _read_types(config, num_layers)
    # transformers saves a sliding_window that is one larger beside the published number
    window = config.integer("sliding_window_size", "sliding_window") if SLIDING in types else None
    config.ignore("sliding_window", "sliding_window_size", "attention_chunk_size")  # one window, stated three times
    full_sinks = full.num_heads if config.flag("add_full_attention_sink_bias", default=False) else 0
    sliding_sinks = sliding.num_heads if config.flag("add_swa_attention_sink_bias", default=True) else 0
    blocks = [
        _block(full, None, full_sinks, feed) if entry == FULL else _block(sliding, window, sliding_sinks, feed)
        for entry, feed in zip(types, feeds)
    ]
    source = "vLLM 0.32 models/mimo_v2_mtp.py loads the first of them"
    num_draft = read_draft_count(config, "num_nextn_predict_layers", unstated=1, source=source)
    dense = dense_feed_forward(full.hidden_size, config.integer("intermediate_size"))
    draft = _block(sliding, window, sliding_sinks, dense)  # the draft layers slide and are dense (MiMo-V2-Flash report)
    return decoder(config, blocks, hidden_size=full.hidden_size, num_heads=full.num_heads, draft=[draft] * num_draft)


def _block(shape: AttentionShape, window: int | None, sinks: int, feed: FeedForward) -> Block:
    return Block(
        layer=(headed_kind(shape, window),),
        attention=shape.parameters() + sinks,
        norms=2 * shape.hidden_size,
        feed_forward=feed,
    )


def _read_full_shape(config: ConfigReader) -> AttentionShape:
    head_dim = config.integer("head_dim")
    return AttentionShape(
        hidden_size=config.integer("hidden_size"),
        num_heads=config.integer("num_attention_heads"),
        num_kv_heads=config.integer("num_key_value_heads"),
        head_dim=head_dim,
        v_head_dim=config.integer("v_head_dim", default=head_dim),
        qkv_bias=config.flag("attention_bias", default=False),
    )


def _read_sliding_shape(config: ConfigReader, full: AttentionShape) -> AttentionShape:
    return AttentionShape(
        hidden_size=full.hidden_size,
        num_heads=config.integer("swa_num_attention_heads", default=full.num_heads),
        num_kv_heads=config.integer("swa_num_key_value_heads", default=2 * full.num_kv_heads),
        head_dim=config.integer("swa_head_dim", default=full.head_dim),
        v_head_dim=config.integer("swa_v_head_dim", default=full.v_head_dim),
        qkv_bias=full.qkv_bias,
    )


def _read_types(config: ConfigReader, num_layers: int) -> list[str]:
    """``hybrid_layer_pattern`` marks windowed layers with 1; without it the first layer and every sixth are full."""
    pattern = config.integers("hybrid_layer_pattern")
    types = read_layer_types(config, num_layers)
    if pattern is not None:
        check_length(config, "hybrid_layer_pattern", pattern, num_layers)
        return [SLIDING if entry else FULL for entry in pattern]
    return types or [FULL if layer == 0 or (layer + 1) % 6 == 0 else SLIDING for layer in range(num_layers)]


def _read_feed_forwards(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    config.complete({"first_k_dense_replace": 1})
    dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    size = config.integer("moe_intermediate_size")
    shared = size * config.integer("n_shared_experts", default=0, minimum=0)
    mixture = mixture_feed_forward(read_mixture(config, hidden_size, size, shared_size=shared))
    return [mixture if is_sparse else dense for is_sparse in read_sparse_layers(config, num_layers)]


FAMILY = Family(
    name="mimo",
    model_types=("mimo_v2_flash",),
    architectures=("MiMoV2FlashForCausalLM",),
    read=_read,
    neutral_keys=frozenset({"attention_value_scale"}),
)
