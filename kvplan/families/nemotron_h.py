"""Nemotron-H, Nemotron Nano 2 and Nemotron 3: each layer is one block, Mamba-2, attention, MLP or experts."""

from __future__ import annotations

from collections.abc import Mapping

from kvplan.core.attention import NoCache
from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear, plain_mlp
from kvplan.core.decoder import Block, FeedForward, check_length, decoder, plain_feed_forward
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import (
    NO_FEED_FORWARD,
    integer_or_default,
    read_state_dtype,
)
from kvplan.core.mixer_counting import mamba2_mixer
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba2

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""The alphabet of ``hybrid_override_pattern``."""

_BLOCK_NAMES = {
    **{name: name for name in _LETTERS.values()},
    "linear_attention": "mamba",
    "full_attention": "attention",
}
_OWNER = "NemotronHConfig"


def read(config: ConfigReader) -> Architecture:
    """Layers as the pattern spells them; draft layers as the draft pattern does, once per predicted token."""
    hidden_size = config.integer("hidden_size")
    names = _read_pattern(config, "hybrid_override_pattern", "layers_block_type", "layer_types")
    if names is None:
        config.missing("hybrid_override_pattern", "layers_block_type")
    num_layers = config.optional_integer("num_hidden_layers")
    if num_layers is not None:
        check_length(config, "hybrid_override_pattern", names, num_layers)
    draft_names = _read_pattern(config, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    num_drafts = config.integer("num_nextn_predict_layers", default=0, minimum=0)
    draft = (draft_names or ["attention", "moe"]) * num_drafts
    kinds = _read_blocks(config, hidden_size, {*names, *draft})
    return decoder(
        config,
        [kinds[name] for name in names],
        hidden_size=hidden_size,
        num_heads=config.integer("num_attention_heads"),
        draft=[kinds[name] for name in draft],
    )


def _read_pattern(config: ConfigReader, letters_key: str, *list_keys: str) -> list[str] | None:
    """Block names from a list, or from a string with one letter per layer; None where the config has neither."""
    letters = config.text(letters_key, default="")
    for letter in letters:
        if letter not in _LETTERS:
            config.wrong(letters_key, f"has the unknown letter {letter!r} (known: {', '.join(_LETTERS)})")
    stated = config.texts(*list_keys, allowed=tuple(_BLOCK_NAMES))
    if stated is not None:
        return [_BLOCK_NAMES[name] for name in stated]
    return [_LETTERS[letter] for letter in letters] or None


def _read_blocks(config: ConfigReader, hidden_size: int, needed: set[str]) -> Mapping[str, Block]:
    """One block of each needed kind; keys of kinds that no layer has may be absent."""
    readers = {"mamba": _read_mamba, "attention": _read_attention, "mlp": _read_mlp, "moe": _read_experts}
    config.ignore(*_KEYS_OF_ABSENT_KINDS)
    return {name: readers[name](config, hidden_size) for name in sorted(needed)}


def _read_mamba(config: ConfigReader, hidden_size: int) -> Block:
    kind = Mamba2(
        num_heads=integer_or_default(config, 128, _OWNER, "mamba_num_heads"),
        head_dim=integer_or_default(config, 64, _OWNER, "mamba_head_dim"),
        state_size=integer_or_default(config, 128, _OWNER, "ssm_state_size"),
        num_groups=integer_or_default(config, 8, _OWNER, "n_groups", "mamba_n_groups"),
        conv_kernel=integer_or_default(config, 4, _OWNER, "conv_kernel", "mamba_d_conv"),
        state_dtype=read_state_dtype(config, "mamba_ssm_cache_dtype"),
    )
    bias = config.flag("use_bias", default=False)
    convolution_bias = config.flag("use_conv_bias", "mamba_conv_bias", default=True)
    mixer = mamba2_mixer(kind, hidden_size, input_bias=bias, output_bias=bias, convolution_bias=convolution_bias)
    return Block(layer=(kind,), attention=0, state=mixer, norms=hidden_size, feed_forward=NO_FEED_FORWARD)


def _read_attention(config: ConfigReader, hidden_size: int) -> Block:
    num_heads = config.integer("num_attention_heads")
    bias = config.flag("attention_bias", default=False)
    shape = AttentionShape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=integer_or_default(config, 8, _OWNER, "num_key_value_heads"),
        head_dim=integer_or_default(config, 128, _OWNER, "head_dim", "attention_head_dim"),
        qkv_bias=bias,
        output_bias=bias,
    )
    return Block(
        layer=(headed_kind(shape),),
        attention=shape.parameters(),
        norms=hidden_size,
        feed_forward=NO_FEED_FORWARD,
    )


def _read_mlp(config: ConfigReader, hidden_size: int) -> Block:
    width = config.integer("intermediate_size")
    feed = plain_feed_forward(hidden_size, width, config.flag("mlp_bias", default=False))
    return Block(layer=(NoCache(),), attention=0, norms=hidden_size, feed_forward=feed)


def _read_experts(config: ConfigReader, hidden_size: int) -> Block:
    """Ungated experts, on a latent of ``moe_latent_size`` where there is one (Nemotron 3 Super and Ultra)."""
    num_experts = config.integer("n_routed_experts", "num_local_experts")
    num_active = config.integer("num_experts_per_tok")
    bias = config.flag("mlp_bias", default=False)
    latent_size = config.optional_integer("moe_latent_size")
    expert_size = config.integer("moe_intermediate_size")
    shared_size = config.integer("moe_shared_expert_intermediate_size")
    expert = plain_mlp(latent_size or hidden_size, expert_size)
    shared = plain_mlp(hidden_size, shared_size, bias)
    latent = 0
    if latent_size is not None:
        latent = linear(hidden_size, latent_size, bias) + linear(latent_size, hidden_size, bias)
    feed = FeedForward(
        mlp=shared + latent,
        experts=num_experts * expert,
        router=num_experts * hidden_size,
        idle=(num_experts - num_active) * expert,
        gated=False,
        num_experts=num_experts,
        experts_per_token=num_active,
        moe_intermediate_size=expert_size,
        shared_intermediate_size=shared_size,
    )
    return Block(layer=(NoCache(),), attention=0, norms=hidden_size, feed_forward=feed)


_KEYS_OF_ABSENT_KINDS = (
    "attention_head_dim",
    "attention_bias",
    "use_conv_bias",
    "conv_kernel",
    "mamba_num_heads",
    "mamba_head_dim",
    "ssm_state_size",
    "mamba_ssm_cache_dtype",
    "num_key_value_heads",
    "head_dim",
    "num_local_experts",
    "moe_shared_expert_intermediate_size",
    "moe_latent_size",
)

FAMILY = Family(
    name="nemotron_h",
    model_types=("nemotron_h",),
    architectures=("NemotronHForCausalLM",),
    read=read,
    neutral_keys=frozenset(
        {
            "chunk_size",
            "mamba_chunk_size",
            "mamba_hidden_act",
            "mamba_proj_bias",
            "mamba_expand",
            "mamba_dt_min",
            "mamba_dt_max",
            "mamba_dt_limit",
            "mamba_dt_init_floor",
            "use_mamba_kernels",
            "moe_shared_expert_overlap",
            "n_shared_experts",
            "mamba_ssm_cache_stochastic_rounding",
            "time_step_rank",
        }
    ),
)
