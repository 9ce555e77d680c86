"""Kimi Linear (arXiv 2510.26692), Kimi K3's text model and Ling 3.0 (bailing_hybrid): KDA layers with latent attention.

The latent attention keeps its rotary key even where ``mla_use_nope`` leaves it unrotated (vLLM 0.32 stores 576
elements per token for Kimi K3).
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import read_block_names
from kvplan.core.latent_attention import LatentShape, read_latent_shape
from kvplan.core.mixer_counting import short_convolution
from kvplan.core.mixture import read_sparse_layers
from kvplan.core.model import Architecture
from kvplan.core.recurrent import KimiDeltaAttention

_BLOCK_NAMES = {"linear_attention": "kda", "full_attention": "full"}


def read(config: ConfigReader) -> Architecture:
    """KDA and latent attention layers as the config places them; experts from the first sparse layer on."""
    names = {config.text("model_type", default=""), *(config.texts("architectures") or [])}
    if not names.isdisjoint(("bailing_hybrid", "BailingMoeV3ForCausalLM", "BailingHybridForCausalLM")):
        return _read_bailing(config)
    return _read_kimi(config)


def _read_kimi(config: ConfigReader) -> Architecture:
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    num_heads = config.integer("num_attention_heads")
    names, kda, full_rank_gate = _read_linear_config(config, num_layers)
    latent = read_latent_shape(config, hidden_size, num_heads)
    gate = (
        linear(hidden_size, num_heads * latent.v_head_dim) if config.flag("mla_use_output_gate", default=False) else 0
    )
    width = kda.num_heads * kda.head_dim
    low_rank = linear(hidden_size, kda.head_dim) + linear(kda.head_dim, width)
    mixer = _kda_parameters(kda, hidden_size, forget_gate=low_rank) + (
        linear(hidden_size, width) if full_rank_gate else low_rank
    )
    attention = latent.parameters() + gate
    return _assemble(config, names, kda, mixer, latent, attention, num_layers)


def _read_linear_config(config: ConfigReader, num_layers: int) -> tuple[list[str], KimiDeltaAttention, bool]:
    """Layer names, the KDA geometry and whether its output gate has full rank.

    ``linear_attn_config`` counts layers from 1; files rewritten by transformers spell ``layer_types`` and ``linear_*``.
    """
    names = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types")
    section = config.section("linear_attn_config")
    if section is None:
        kind = KimiDeltaAttention(
            num_heads=config.integer("linear_num_heads"),
            head_dim=config.integer("linear_head_dim"),
            conv_kernel=config.integer("linear_conv_kernel_dim", default=4),
        )
        if names is None:
            config.missing("linear_attn_config", "layer_types")
        return names, kind, False
    section.ignore("gate_lower_bound")
    kind = KimiDeltaAttention(
        num_heads=section.integer("num_heads"),
        head_dim=section.integer("head_dim"),
        conv_kernel=section.integer("short_conv_kernel_size"),
    )
    kda_layers = section.integers("kda_layers", minimum=1) or []
    full_layers = section.integers("full_attn_layers", minimum=1) or []
    if sorted([*kda_layers, *full_layers]) != list(range(1, num_layers + 1)):
        section.wrong("kda_layers", f"and full_attn_layers must name each of the layers 1 to {num_layers} once")
    full = frozenset(full_layers)
    placed = ["full" if layer + 1 in full else "kda" for layer in range(num_layers)]
    return names or placed, kind, section.flag("use_full_rank_gate", default=False)


def _read_bailing(config: ConfigReader) -> Architecture:
    """Ling 3.0: KDA with gates of full rank, and attention that ends each group of ``layer_group_size`` layers.

    Layers past the last whole group attend in full too (the model's own code; published depths divide evenly).
    """
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    num_heads = config.integer("num_attention_heads")
    config.ignore("head_dim", "qk_head_dim", "num_key_value_heads")  # derived from the widths below
    kda = KimiDeltaAttention(
        num_heads=num_heads,
        head_dim=config.integer("linear_head_dim", "head_dim"),
        conv_kernel=config.integer("short_conv_kernel_size", "linear_conv_kernel_dim", default=4),
    )
    group = config.optional_integer("layer_group_size")
    names = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types")
    if names is None:
        if group is None:
            config.missing("layer_group_size", "layer_types")
        tail = num_layers // group * group
        names = ["full" if (layer + 1) % group == 0 or layer >= tail else "kda" for layer in range(num_layers)]
    latent = LatentShape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim"),
        v_head_dim=config.integer("v_head_dim"),
        q_lora_rank=config.optional_integer("q_lora_rank"),
        bias=config.flag("attention_bias", default=False),
    )
    width = kda.num_heads * kda.head_dim
    mixer = _kda_parameters(kda, hidden_size, forget_gate=linear(hidden_size, width)) + linear(hidden_size, width)
    attention = latent.parameters() + linear(hidden_size, num_heads)  # one output gate per head
    return _assemble(config, names, kda, mixer, latent, attention, num_layers)


def _kda_parameters(kind: KimiDeltaAttention, hidden_size: int, *, forget_gate: int) -> int:
    """q, k, v, beta and output projections, convolutions, decay vectors and norm; the output gate is not counted."""
    width = kind.num_heads * kind.head_dim
    return (
        3 * linear(hidden_size, width)
        + short_convolution(3 * width, kind.conv_kernel)
        + forget_gate
        + width
        + kind.num_heads
        + linear(hidden_size, kind.num_heads)
        + kind.head_dim
        + linear(width, hidden_size)
    )


def _assemble(
    config: ConfigReader,
    names: list[str],
    kda: KimiDeltaAttention,
    mixer: int,
    latent: LatentShape,
    attention: int,
    num_layers: int,
) -> Architecture:
    hidden_size = latent.hidden_size
    feeds = _read_feed_forward(config, hidden_size, num_layers)
    blocks = {
        "kda": Block(layer=(kda,), attention=0, state=mixer, norms=2 * hidden_size, feed_forward=FeedForward()),
        "full": Block(layer=(latent.kind(),), attention=attention, norms=2 * hidden_size, feed_forward=FeedForward()),
    }
    num_drafts = config.integer("num_nextn_predict_layers", "num_mtp_layers", default=0, minimum=0)
    architecture = decoder(
        config,
        [replace(blocks[name], feed_forward=feed) for name, feed in zip(names, feeds)],
        hidden_size=hidden_size,
        num_heads=latent.num_heads,
        draft=[replace(blocks["full"], feed_forward=feeds[-1])] * num_drafts,
    )
    limit = config.optional_integer("max_position_embeddings", "model_max_length")
    return replace(architecture, max_context_tokens=limit)


def _read_feed_forward(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """A dense start, then experts; Kimi K3's experts work on a latent of ``routed_expert_hidden_size``."""
    dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    expert_size = config.integer("moe_intermediate_size")
    num_shared = config.integer("num_shared_experts", "n_shared_experts", default=1, minimum=0)
    latent_size = config.integer("routed_expert_hidden_size", default=hidden_size)
    shape = read_mixture(
        config,
        latent_size,
        expert_size,
        num_experts=("num_experts", "num_local_experts"),
        num_active=("num_experts_per_token", "num_experts_per_tok"),
    )
    shared = dense_feed_forward(hidden_size, num_shared * expert_size)
    projections = 2 * linear(hidden_size, latent_size) if latent_size != hidden_size else 0
    norm = latent_size if config.flag("latent_moe_use_norm", default=False) else 0
    sparse = replace(
        mixture_feed_forward(shape),
        mlp=shared.mlp + projections + norm,
        router=shape.num_experts * hidden_size,
        shared_intermediate_size=shared.intermediate_size,
    )
    return [sparse if chosen else dense for chosen in read_sparse_layers(config, num_layers)]


FAMILY = Family(
    name="kimi_linear",
    model_types=("kimi_linear", "bailing_hybrid"),
    architectures=("KimiLinearForCausalLM", "BailingHybridForCausalLM", "BailingMoeV3ForCausalLM"),
    read=read,
    neutral_keys=frozenset(
        {
            "mla_use_nope",
            "attn_res_block_size",
            "activation_situ_linear_beta",
            "kda_safe_gate",
            "kda_lower_bound",
            "no_kda_lora",
            "linear_head_dim",
            "linear_num_heads",
            "linear_conv_kernel_dim",
            "num_expert_group",
            "mtp_loss_scaling_factor",
        }
    ),
)
