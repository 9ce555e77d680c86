"""LFM2 and LFM2-MoE: gated short convolutions, with grouped-query attention in some layers."""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import integer_or_default, read_block_names, read_layer_indices
from kvplan.core.mixer_counting import short_convolution
from kvplan.core.model import Architecture
from kvplan.core.recurrent import ShortConv
from kvplan.core.units import round_up

_BLOCK_NAMES = {"conv": "conv", "short_conv": "conv", "full_attention": "full"}


def read(config: ConfigReader) -> Architecture:
    """Layers by ``layer_types`` or ``full_attn_idxs``; experts after ``num_dense_layers`` in the MoE models."""
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    shape = read_attention_shape(config, num_kv_heads=8)
    kind = ShortConv(
        channels=config.integer("conv_dim", default=hidden_size),
        conv_kernel=integer_or_default(config, 3, "Lfm2Config", "conv_L_cache"),
    )
    bias = config.flag("conv_bias", default=False)
    mixer = (
        linear(hidden_size, 3 * hidden_size, bias)
        + short_convolution(hidden_size, kind.conv_kernel, bias)
        + linear(hidden_size, hidden_size, bias)
    )
    blocks = []
    for name, feed in zip(_read_names(config, num_layers), _read_feed_forward(config, hidden_size, num_layers)):
        norms = 2 * hidden_size + (2 * shape.head_dim if name == "full" else 0)
        blocks.append(
            Block(
                layer=(headed_kind(shape),) if name == "full" else (kind,),
                attention=shape.parameters() if name == "full" else 0,
                state=0 if name == "full" else mixer,
                norms=norms,
                feed_forward=feed,
            )
        )
    tied = config.flag("tie_embedding", default=True)  # the older spelling of tie_word_embeddings
    return decoder(config, blocks, hidden_size=hidden_size, num_heads=shape.num_heads, tied=tied)


def _read_names(config: ConfigReader, num_layers: int) -> list[str]:
    attention_at = read_layer_indices(config, num_layers, "full_attn_idxs")
    names = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types")
    if names is not None:
        return names
    if attention_at is None:
        config.missing("layer_types", "full_attn_idxs")
    return ["full" if layer in attention_at else "conv" for layer in range(num_layers)]


def _read_feed_forward(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    dense_at_start = config.integer("num_dense_layers", default=2, minimum=0)
    if not config.has("num_experts"):
        return [dense_feed_forward(hidden_size, _read_dense_width(config))] * num_layers
    shape = read_mixture(config, hidden_size, config.integer("moe_intermediate_size"), num_experts=("num_experts",))
    dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    sparse = mixture_feed_forward(shape)
    return [dense if layer < dense_at_start else sparse for layer in range(num_layers)]


def _read_dense_width(config: ConfigReader) -> int:
    """The width of the gated MLP: two thirds of the stated one, rounded up, unless adjusting is off (Lfm2MLP)."""
    stated = config.integer("block_ff_dim", "intermediate_size")
    multiplier = config.number("block_ffn_dim_multiplier", default=1.0)
    multiple = config.integer("block_multiple_of", default=256)
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return stated
    return round_up(int(multiplier * int(2 * stated / 3)), multiple)


FAMILY = Family(
    name="lfm2",
    model_types=("lfm2", "lfm2_moe"),
    architectures=("Lfm2ForCausalLM", "LFM2ForCausalLM", "Lfm2MoeForCausalLM"),
    read=read,
    neutral_keys=frozenset(
        {
            "block_dim",
            "block_mlp_init_scale",
            "block_norm_eps",
            "block_out_init_scale",
            "block_use_swiglu",
            "block_use_xavier_init",
            "conv_dim_out",
            "conv_use_xavier_init",
            "num_heads",
        }
    ),
)
