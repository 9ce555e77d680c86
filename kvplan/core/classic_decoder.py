"""What decoders from before Llama have in common: equal heads, LayerNorm with a bias, an ungated feed-forward block.

Their configs spell the same sizes in several ways (``n_embd``, ``hidden_size``, ``d_model``); transformers accepts
each family's own word and its common one, and so do these readers.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.attention_layout import equal_blocks
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import Block, FeedForward, plain_feed_forward

HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")


def read_classic_shape(
    config: ConfigReader, *, num_kv_heads: int | None = None, qkv_bias: bool = True, output_bias: bool = True
) -> AttentionShape:
    """Attention with heads of hidden_size / heads; ``num_kv_heads`` None means as many as query heads."""
    hidden = config.integer(*HIDDEN)
    heads = config.integer(*HEADS)
    if hidden % heads:
        config.wrong(HIDDEN[0], f"{hidden} is no multiple of the {heads} attention heads")
    if heads % (num_kv_heads or heads):
        config.wrong(HEADS[0], f"{heads} is no multiple of the {num_kv_heads} key-value heads")
    return AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=num_kv_heads or heads,
        head_dim=hidden // heads,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
    )


def read_plain_mlp(config: ConfigReader, hidden_size: int, bias: bool = True) -> FeedForward:
    """Up and down projections; an absent or null width means four times the hidden size, as in GPT-2."""
    return plain_feed_forward(hidden_size, config.integer(*INNER, default=4 * hidden_size), bias)


def classic_blocks(
    shape: AttentionShape,
    feed_forward: FeedForward,
    windows: Sequence[int | None],
    *,
    num_norms: int = 2,
    head_norms: int = 0,
) -> list[Block]:
    """One block per window, with ``num_norms`` LayerNorms (weight and bias) and ``head_norms`` further parameters."""
    return equal_blocks(shape, feed_forward, windows, norms=2 * num_norms * shape.hidden_size + head_norms)


def read_full_windows(config: ConfigReader) -> list[int | None]:
    """No window in any layer."""
    return [None] * config.integer(*LAYERS)
