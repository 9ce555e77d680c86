"""Bamba, Granite 4 (granitemoehybrid) and Falcon-H1: Mamba-2 with attention, named by the same ``mamba_*`` keys.

Bamba and Granite give each layer one of the two; Falcon-H1 runs both side by side in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
)
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import (
    exact_quotient,
    integer_or_default,
    read_block_names,
    read_layer_indices,
)
from kvplan.core.mixer_counting import mamba2_mixer
from kvplan.core.mixture import MixtureShape
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba2

_BLOCK_NAMES = {
    "attention": "attention",
    "full_attention": "attention",
    "multihead_attention": "attention",
    "mamba": "mamba",
    "mamba2": "mamba",
    "linear_attention": "mamba",
}


def read(config: ConfigReader) -> Architecture:
    """The two mixers, then the layers by the model's own rule."""
    names = {config.text("model_type", default=""), *(config.texts("architectures") or [])}
    if not names.isdisjoint(("falcon_h1", "FalconH1ForCausalLM")):
        return _read_falcon_h1(config)
    if not names.isdisjoint(("granitemoehybrid", "GraniteMoeHybridForCausalLM")):
        return _read_granite(config)
    return _read_bamba(config)


def _read_bamba(config: ConfigReader) -> Architecture:
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    mamba = _read_mamba2(config, _expanded(config, "BambaConfig"), "BambaConfig")
    attention_at = read_layer_indices(config, num_layers, "attn_layer_indices") or ()
    types = read_block_names(config, num_layers, _BLOCK_NAMES, "layers_block_type", "layer_types")
    if types is None:
        types = ["attention" if index in attention_at else "mamba" for index in range(num_layers)]
    feed = dense_feed_forward(hidden_size, config.integer("intermediate_size"), config.flag("mlp_bias", default=False))
    return _alternating(config, types, mamba, _read_attention(config), feed)


def _read_granite(config: ConfigReader) -> Architecture:
    owner = "GraniteMoeHybridConfig"
    num_layers = config.integer("num_hidden_layers")
    mamba = _read_mamba2(config, _expanded(config, owner), owner)
    types = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types", "layers_block_type")
    if types is None:
        config.note(f"layer_types is absent: every layer is Mamba-2, the default of {owner}")
        types = ["mamba"] * num_layers
    shape = MixtureShape(
        hidden_size=config.integer("hidden_size"),
        expert_intermediate_size=config.integer("intermediate_size"),
        num_experts=config.integer("num_local_experts", default=8, minimum=0),
        num_active=config.integer("num_experts_per_tok", default=2, minimum=0),
        shared_intermediate_size=integer_or_default(config, 1024, owner, "shared_intermediate_size"),
    )
    return _alternating(config, types, mamba, _read_attention(config), mixture_feed_forward(shape))


def _alternating(
    config: ConfigReader, types: Sequence[str], mamba: Mamba2, shape: AttentionShape, feed: FeedForward
) -> Architecture:
    """One mixer and one feed-forward part in each layer, two norms."""
    hidden_size = shape.hidden_size
    bias = config.flag("mamba_proj_bias", default=False)
    convolution_bias = config.flag("mamba_conv_bias", default=True)
    mixer = mamba2_mixer(mamba, hidden_size, input_bias=bias, output_bias=bias, convolution_bias=convolution_bias)
    recurrent = Block(layer=(mamba,), attention=0, state=mixer, norms=2 * hidden_size, feed_forward=feed)
    attention = Block(
        layer=(headed_kind(shape),), attention=shape.parameters(), norms=2 * hidden_size, feed_forward=feed
    )
    blocks = [attention if name == "attention" else recurrent for name in types]
    return decoder(config, blocks, hidden_size=hidden_size, num_heads=shape.num_heads)


def _read_falcon_h1(config: ConfigReader) -> Architecture:
    owner = "FalconH1Config"
    shape = _read_attention(config)
    width = config.optional_integer("mamba_d_ssm") or _expanded(config, owner)
    mamba = _read_mamba2(config, width, owner)
    mixer = mamba2_mixer(
        mamba,
        shape.hidden_size,
        input_bias=config.flag("mamba_proj_bias", default=False),
        output_bias=config.flag("projectors_bias", default=False),
        convolution_bias=config.flag("mamba_conv_bias", default=True),
        gated_norm=config.flag("mamba_rms_norm", default=False),
    )
    block = Block(
        layer=(headed_kind(shape), mamba),
        attention=shape.parameters(),
        state=mixer,
        norms=2 * shape.hidden_size,
        feed_forward=dense_feed_forward(
            shape.hidden_size, config.integer("intermediate_size"), config.flag("mlp_bias", default=False)
        ),
    )
    blocks = [block] * config.integer("num_hidden_layers")
    config.ignore("mamba_expand")  # the width that mamba_d_ssm replaces
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _expanded(config: ConfigReader, owner: str) -> int:
    return integer_or_default(config, 2, owner, "mamba_expand") * config.integer("hidden_size")


def _read_attention(config: ConfigReader) -> AttentionShape:
    bias = config.flag("attention_bias", default=False)
    return read_attention_shape(config, qkv_bias=bias, output_bias=bias)


def _read_mamba2(config: ConfigReader, width: int, owner: str) -> Mamba2:
    """The mixer of this width; ``mamba_d_head`` may be "auto" (the width divided by the heads)."""
    num_heads = integer_or_default(config, 128, owner, "mamba_n_heads")
    head_dim = exact_quotient(config, width, num_heads, "mamba_n_heads")
    if config.value("mamba_d_head", default="auto") != "auto" and config.integer("mamba_d_head") != head_dim:
        config.wrong("mamba_d_head", f"times mamba_n_heads ({num_heads}) must be the mixer's width ({width})")
    return Mamba2(
        num_heads=num_heads,
        head_dim=head_dim,
        state_size=integer_or_default(config, 256, owner, "mamba_d_state"),
        num_groups=integer_or_default(config, 1, owner, "mamba_n_groups"),
        conv_kernel=integer_or_default(config, 4, owner, "mamba_d_conv"),
    )


FAMILY = Family(
    name="bamba",
    model_types=("bamba", "granitemoehybrid", "falcon_h1"),
    architectures=("BambaForCausalLM", "GraniteMoeHybridForCausalLM", "FalconH1ForCausalLM"),
    read=read,
    neutral_keys=frozenset(
        {
            "mamba_chunk_size",
            "attn_rotary_emb",
            "position_embedding_type",
            "normalization_function",
            # Falcon-H1's scale factors, and switches of its mixer's arithmetic
            "attention_in_multiplier",
            "attention_out_multiplier",
            "lm_head_multiplier",
            "ssm_in_multiplier",
            "ssm_out_multiplier",
            "ssm_multipliers",
            "mamba_norm_before_gate",
            "mamba_use_mlp",
        }
    ),
)
