"""Qwen3-Next, Qwen3.5 and Qwen3.6 text models: three Gated DeltaNet layers for every layer of gated attention."""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
    read_mixture,
)
from kvplan.core.draft_layers import read_draft_count
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import integer_or_default, read_block_names, read_layer_indices, read_state_dtype
from kvplan.core.mixer_counting import delta_net_mixer
from kvplan.core.model import Architecture
from kvplan.core.recurrent import GatedDeltaNet

_BLOCK_NAMES = {"linear_attention": "linear", "full_attention": "full"}


def read(config: ConfigReader) -> Architecture:
    """Layers by ``layer_types``, or every ``full_attention_interval``-th one full; MTP layers attend in full."""
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, head_dim=256, qkv_bias=bias, output_bias=bias)
    feeds = _read_feed_forward(config, hidden_size, num_layers)
    full = [_attention_block(config, shape, feed) for feed in feeds]
    linear_blocks = _linear_blocks(config, hidden_size, feeds)
    names = _read_names(config, num_layers)
    return decoder(
        config,
        [full[layer] if name == "full" else linear_blocks[layer] for layer, name in enumerate(names)],
        hidden_size=hidden_size,
        num_heads=shape.num_heads,
        draft=[full[-1]] * _num_drafts(config),
    )


def _num_drafts(config: ConfigReader) -> int:
    """As stated (Qwen3.5); Qwen3-Next's config leaves its one out."""
    names = {config.text("model_type", default=""), *(config.texts("architectures") or [])}
    return read_draft_count(
        config,
        *("mtp_num_hidden_layers", "num_nextn_predict_layers"),
        unstated=int(not names.isdisjoint({"qwen3_next", "Qwen3NextForCausalLM"})),
        source="vLLM 0.32 models/qwen3_next_mtp.py",
    )


def _read_names(config: ConfigReader, num_layers: int) -> list[str]:
    interval = config.optional_integer("full_attention_interval")
    names = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types")
    if names is not None:
        return names
    every = interval or integer_or_default(config, 4, "Qwen3NextConfig", "full_attention_interval")
    return ["linear" if (layer + 1) % every else "full" for layer in range(num_layers)]


def _attention_block(config: ConfigReader, shape: AttentionShape, feed: FeedForward) -> Block:
    """Attention whose query projection also makes an output gate; norms of queries and keys are per head."""
    gate = linear(shape.hidden_size, shape.num_heads * shape.head_dim, shape.qkv_bias)
    return Block(
        layer=(headed_kind(shape),),
        attention=shape.parameters() + (gate if config.flag("attn_output_gate", default=True) else 0),
        norms=2 * shape.hidden_size + 2 * shape.head_dim,
        feed_forward=feed,
    )


def _linear_blocks(config: ConfigReader, hidden_size: int, feeds: list[FeedForward]) -> list[Block]:
    kind = GatedDeltaNet(
        num_k_heads=integer_or_default(config, 16, "Qwen3NextConfig", "linear_num_key_heads"),
        num_v_heads=integer_or_default(config, 32, "Qwen3NextConfig", "linear_num_value_heads"),
        k_head_dim=integer_or_default(config, 128, "Qwen3NextConfig", "linear_key_head_dim"),
        v_head_dim=integer_or_default(config, 128, "Qwen3NextConfig", "linear_value_head_dim"),
        conv_kernel=integer_or_default(config, 4, "Qwen3NextConfig", "linear_conv_kernel_dim"),
        state_dtype=read_state_dtype(config, "mamba_ssm_dtype"),
    )
    mixer = delta_net_mixer(kind, hidden_size)
    return [Block(layer=(kind,), attention=0, state=mixer, norms=2 * hidden_size, feed_forward=feed) for feed in feeds]


def _read_feed_forward(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """Experts with a gated shared expert, except in ``mlp_only_layers`` and between ``decoder_sparse_step``."""
    dense_at = read_layer_indices(config, num_layers, "mlp_only_layers") or []
    step = config.integer("decoder_sparse_step", default=1)
    if not config.has("num_experts"):
        return [dense_feed_forward(hidden_size, config.integer("intermediate_size"))] * num_layers
    shape = read_mixture(
        config,
        hidden_size,
        config.integer("moe_intermediate_size"),
        num_experts=("num_experts",),
        shared_size=config.integer("shared_expert_intermediate_size"),
    )
    mixture = mixture_feed_forward(shape)
    sparse = replace(mixture, mlp=mixture.mlp + hidden_size)  # the gate of the shared expert
    is_sparse = [layer not in dense_at and (layer + 1) % step == 0 for layer in range(num_layers)]
    if all(is_sparse):
        return [sparse] * num_layers
    dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    return [sparse if chosen else dense for chosen in is_sparse]


FAMILY = Family(
    name="qwen3_next",
    model_types=("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
    architectures=("Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM"),
    read=read,
    neutral_keys=frozenset({"mtp_use_dedicated_embeddings", "shared_expert_intermediate_size"}),
)
