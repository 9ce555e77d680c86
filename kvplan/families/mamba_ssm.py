"""Checkpoints of the original ``mamba_ssm`` package (state-spaces/mamba-*, mamba2-*, mamba2attn-*): no model_type.

Defaults are those of mamba_ssm 2.x: Mamba (d_state 16), Mamba2 (d_state 128, headdim 64, ngroups 1), MHA.
"""

from __future__ import annotations

from kvplan.core.attention import FullAttention
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import gated_mlp, linear
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import exact_quotient, read_dt_rank, read_layer_indices
from kvplan.core.mixer_counting import mamba1_mixer, mamba2_mixer, short_convolution
from kvplan.core.model import Architecture, Layer, Parameters
from kvplan.core.recurrent import Mamba1, Mamba2, ShortConv
from kvplan.core.units import round_up
from kvplan.core.widths import Widths


def claims(config: ConfigReader) -> bool:
    """Whether the config is a ``MambaConfig`` of the mamba_ssm package: its own names for width and depth."""
    return "model_type" not in config.values and {"d_model", "n_layer", "ssm_cfg"} <= config.values.keys()


def read(config: ConfigReader) -> Architecture:
    """Mamba mixers, with attention at ``attn_layer_idx``, each followed by a gated MLP if ``d_intermediate``."""
    hidden_size = config.integer("d_model")
    num_layers = config.integer("n_layer")
    mixer_layer, mixer_parameters = _read_mixer(config, hidden_size)
    attention_at = frozenset(read_layer_indices(config, num_layers, "attn_layer_idx") or ())
    attention_layer: Layer = ()
    num_heads, attention_parameters = None, 0
    if attention_at:
        attention_layer, num_heads, attention_parameters = _read_attention(config, hidden_size)
    mlp_width = config.integer("d_intermediate", default=0, minimum=0)
    norms_per_layer = 2 if mlp_width else 1
    vocab_size = round_up(config.integer("vocab_size"), config.integer("pad_vocab_size_multiple", default=8))
    tied = config.flag("tie_embeddings", default=True)
    parameters = Parameters(
        embedding=vocab_size * hidden_size,
        output_head=0 if tied else vocab_size * hidden_size,
        state=(num_layers - len(attention_at)) * mixer_parameters,
        attention=len(attention_at) * attention_parameters,
        mlp=num_layers * gated_mlp(hidden_size, round_up(mlp_width, 128)),  # GatedMLP rounds to 128
        norms=(num_layers * norms_per_layer + 1) * hidden_size,
    )
    return Architecture(
        layers=tuple(attention_layer if index in attention_at else mixer_layer for index in range(num_layers)),
        hidden_size=hidden_size,
        num_heads=num_heads,
        max_context_tokens=None,
        parameters=parameters,
        widths=Widths(vocab_size=vocab_size, intermediate_size=round_up(mlp_width, 128), tied_embeddings=tied),
    )


def _read_mixer(config: ConfigReader, hidden_size: int) -> tuple[Layer, int]:
    section = config.section("ssm_cfg") or ConfigReader({}, config.source, f"{config.path}ssm_cfg.")
    section.ignore("chunk_size")
    inner = section.integer("expand", default=2) * hidden_size
    conv_kernel = section.integer("d_conv", default=4)
    bias, convolution_bias = section.flag("bias", default=False), section.flag("conv_bias", default=True)
    layer = section.text("layer", default="Mamba1")
    if layer == "Mamba1":
        state_size = section.integer("d_state", default=16)
        mamba1 = Mamba1(intermediate_size=inner, state_size=state_size, conv_kernel=conv_kernel)
        rank = read_dt_rank(section, hidden_size, "dt_rank")
        return (mamba1,), mamba1_mixer(
            mamba1, hidden_size, rank, projection_bias=bias, convolution_bias=convolution_bias
        )
    if layer != "Mamba2":
        section.wrong("layer", f"must be Mamba1 or Mamba2, not {layer!r}")
    head_dim = section.integer("headdim", default=64)
    mamba2 = Mamba2(
        num_heads=exact_quotient(section, inner, head_dim, "headdim"),
        head_dim=head_dim,
        state_size=section.integer("d_state", default=128),
        num_groups=section.integer("ngroups", default=1),
        conv_kernel=conv_kernel,
    )
    return (mamba2,), mamba2_mixer(
        mamba2,
        hidden_size,
        input_bias=bias,
        output_bias=bias,
        convolution_bias=convolution_bias,
        gated_norm=section.flag("rmsnorm", default=True),
    )


def _read_attention(config: ConfigReader, hidden_size: int) -> tuple[Layer, int, int]:
    section = config.section("attn_cfg")
    if section is None:
        config.missing("attn_cfg")
    section.ignore("causal", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved", "softmax_scale")
    num_heads = section.integer("num_heads")
    num_kv_heads = section.integer("num_heads_kv", default=num_heads)
    head_dim = section.optional_integer("head_dim")
    if head_dim is None:
        head_dim = exact_quotient(section, hidden_size, num_heads, "num_heads")
    layer: Layer = (FullAttention(num_kv_heads=num_kv_heads, head_dim=head_dim),)
    qkv_width = (num_heads + 2 * num_kv_heads) * head_dim
    mlp_width = section.integer("mlp_dim", default=0, minimum=0)
    parameters = linear(hidden_size, qkv_width + mlp_width, section.flag("qkv_proj_bias", default=True)) + linear(
        num_heads * head_dim + mlp_width // 2, hidden_size, section.flag("out_proj_bias", default=True)
    )
    conv_kernel = section.integer("d_conv", default=0, minimum=0)
    if conv_kernel:  # MHA convolves q, k and v together and keeps their last inputs
        layer = (*layer, ShortConv(channels=qkv_width, conv_kernel=conv_kernel))
        parameters += short_convolution(qkv_width, conv_kernel, bias=True)
    return layer, num_heads, parameters


FAMILY = Family(name="mamba_ssm", model_types=(), read=read, claims=claims)
