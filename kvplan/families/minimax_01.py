"""MiniMax-01 and MiniMax-M1 (arXiv 2501.08313): lightning attention, softmax attention in every eighth layer."""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    check_length,
    decoder,
    mixture_feed_forward,
    read_attention_shape,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import read_block_names
from kvplan.core.model import Architecture
from kvplan.core.recurrent import LinearAttention

_BLOCK_NAMES = {"linear_attention": "lightning", "full_attention": "softmax"}


def read(config: ConfigReader) -> Architecture:
    """Layers by ``attn_type_list`` (0 lightning, 1 softmax) or by transformers' ``layer_types``."""
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    shape = read_attention_shape(config, num_kv_heads=8)
    mixture = read_mixture(
        config,
        hidden_size,
        config.integer("intermediate_size"),
        shared_size=config.integer("shared_intermediate_size", default=0, minimum=0),
    )
    feed = mixture_feed_forward(mixture)
    softmax = Block(layer=(headed_kind(shape),), attention=shape.parameters(), norms=2 * hidden_size, feed_forward=feed)
    blocks = {"softmax": softmax, "lightning": _lightning_block(shape, feed)}
    return decoder(
        config,
        [blocks[name] for name in _read_names(config, num_layers)],
        hidden_size=hidden_size,
        num_heads=shape.num_heads,
    )


def _lightning_block(shape: AttentionShape, feed: FeedForward) -> Block:
    """Every query head has its own key-value state; an output gate and a norm over all heads follow."""
    width = shape.num_heads * shape.head_dim
    projections = linear(shape.hidden_size, 3 * width) + linear(shape.hidden_size, width)
    return Block(
        layer=(LinearAttention(num_heads=shape.num_heads, head_dim=shape.head_dim),),
        attention=0,
        state=projections + linear(width, shape.hidden_size) + width,
        norms=2 * shape.hidden_size,
        feed_forward=feed,
    )


def _read_names(config: ConfigReader, num_layers: int) -> list[str]:
    names = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types")
    kinds = config.integers("attn_type_list")
    if names is not None:
        return names
    if kinds is None:
        config.missing("attn_type_list", "layer_types")
    check_length(config, "attn_type_list", kinds, num_layers)
    if not {0, 1}.issuperset(kinds):
        config.wrong("attn_type_list", "may hold 0 (lightning attention) and 1 (softmax attention) only")
    return ["softmax" if kind else "lightning" for kind in kinds]


FAMILY = Family(
    name="minimax_01",
    model_types=("minimax_text_01", "minimax_m1", "minimax"),
    architectures=("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM", "MiniMaxForCausalLM"),
    read=read,
    neutral_keys=frozenset(
        {
            "block_size",
            "shared_moe_mode",
            "postnorm",
            *(
                f"layernorm_{block}_{factor}"
                for block in ("full_attention", "linear_attention", "mlp")
                for factor in ("alpha", "beta")
            ),
            *(
                f"{block}_{factor}_factor"
                for block in ("full_attn", "linear_attn", "mlp")
                for factor in ("alpha", "beta")
            ),
        }
    ),
)
