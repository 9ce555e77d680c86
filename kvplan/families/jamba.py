"""Jamba (arXiv 2403.19887): Mamba-1 with an attention layer per period and, per another period, experts."""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
)
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import integer_or_default, read_block_names, read_dt_rank
from kvplan.core.mixer_counting import mamba1_mixer
from kvplan.core.mixture import MixtureShape
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1

_BLOCK_NAMES = {
    "attention": "attention",
    "full_attention": "attention",
    "mamba": "mamba",
    "linear_attention": "mamba",
}


def read(config: ConfigReader) -> Architecture:
    """Attention where ``i % attn_layer_period == attn_layer_offset``, Mamba elsewhere."""
    hidden_size = config.integer("hidden_size")
    num_layers = config.integer("num_hidden_layers")
    shape = read_attention_shape(config, num_kv_heads=8)
    mamba = _read_mamba(config, hidden_size)
    mixer = _mixer_parameters(config, mamba, hidden_size)
    feeds = _feed_forward(config, hidden_size, num_layers)
    blocks = []
    for is_attention, feed in zip(_attention_layers(config, num_layers), feeds):
        blocks.append(
            Block(
                layer=(headed_kind(shape),) if is_attention else (mamba,),
                attention=shape.parameters() if is_attention else 0,
                state=0 if is_attention else mixer,
                norms=2 * hidden_size,
                feed_forward=feed,
            )
        )
    architecture = decoder(config, blocks, hidden_size=hidden_size, num_heads=shape.num_heads)
    limit = config.optional_integer("max_position_embeddings", "n_ctx")
    return replace(architecture, max_context_tokens=limit)


def _attention_layers(config: ConfigReader, num_layers: int) -> list[bool]:
    period = integer_or_default(config, 8, "JambaConfig", "attn_layer_period")
    offset = config.integer("attn_layer_offset", default=4, minimum=0)
    stated = read_block_names(config, num_layers, _BLOCK_NAMES, "layers_block_type", "layer_types")
    if stated is not None:
        return [name == "attention" for name in stated]
    if offset >= period:
        config.wrong("attn_layer_offset", f"({offset}) must be below attn_layer_period ({period})")
    return [index % period == offset for index in range(num_layers)]


def _read_mamba(config: ConfigReader, hidden_size: int) -> Mamba1:
    return Mamba1(
        intermediate_size=integer_or_default(config, 2, "JambaConfig", "mamba_expand") * hidden_size,
        state_size=integer_or_default(config, 16, "JambaConfig", "mamba_d_state"),
        conv_kernel=integer_or_default(config, 4, "JambaConfig", "mamba_d_conv"),
    )


def _mixer_parameters(config: ConfigReader, mamba: Mamba1, hidden_size: int) -> int:
    rank = read_dt_rank(config, hidden_size, "mamba_dt_rank")
    inner_norms = rank + 2 * mamba.state_size if config.flag("mamba_inner_layernorms", default=True) else 0
    return inner_norms + mamba1_mixer(
        mamba,
        hidden_size,
        rank,
        projection_bias=config.flag("mamba_proj_bias", default=False),
        convolution_bias=config.flag("mamba_conv_bias", default=True),
    )


def _feed_forward(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """Experts where ``i % expert_layer_period == expert_layer_offset``; one expert alone is a plain MLP."""
    intermediate_size = config.integer("intermediate_size")
    dense = dense_feed_forward(hidden_size, intermediate_size)
    num_experts = integer_or_default(config, 16, "JambaConfig", "num_experts", "num_local_experts")
    num_active = integer_or_default(config, 2, "JambaConfig", "num_experts_per_tok")
    period = config.integer("expert_layer_period", default=2)
    offset = config.integer("expert_layer_offset", default=1, minimum=0)
    if num_experts == 1:
        return [dense] * num_layers
    shape = MixtureShape(
        hidden_size=hidden_size,
        expert_intermediate_size=intermediate_size,
        num_experts=num_experts,
        num_active=num_active,
    )
    sparse = mixture_feed_forward(shape)
    return [sparse if index % period == offset else dense for index in range(num_layers)]


FAMILY = Family(
    name="jamba",
    model_types=("jamba",),
    architectures=("JambaForCausalLM",),
    read=read,
    neutral_keys=frozenset({"use_mamba_kernels", "use_mambapy"}),
)
