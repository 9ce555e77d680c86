"""Bamba, Granite 4 and Falcon-H1."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention import FullAttention
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba2
from kvplan.specs.config_json import read_config

# tiiuae/Falcon-H1-0.5B-Base
FALCON_H1 = {
    "model_type": "falcon_h1",
    "attention_in_multiplier": 1.0,
    "attention_out_multiplier": 0.9375,
    "attn_layer_indices": None,
    "head_dim": 64,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "key_multiplier": 0.39,
    "lm_head_multiplier": 0.0390625,
    "mamba_chunk_size": 128,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 64,
    "mamba_d_ssm": 1536,
    "mamba_d_state": 128,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 24,
    "mamba_norm_before_gate": False,
    "mamba_proj_bias": False,
    "mamba_rms_norm": False,
    "mamba_use_mlp": True,
    "max_position_embeddings": 16384,
    "num_attention_heads": 8,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "ssm_multipliers": [0.35, 0.25, 0.35, 0.5, 0.35],
    "tie_word_embeddings": False,
    "vocab_size": 32784,
}


def test_bamba_attends_where_its_indices_say(read_asset: Callable[..., Architecture]) -> None:
    layers = read_asset("ibm-ai-platform__Bamba-9B-v2").layers
    attention = (FullAttention(num_kv_heads=8, head_dim=128),)
    assert [index for index, layer in enumerate(layers) if layer == attention] == [9, 18, 27]


def test_automatic_head_dim_is_the_width_divided_by_the_heads(read_asset: Callable[..., Architecture]) -> None:
    stated = read_asset("ibm-ai-platform__Bamba-9B-v2")
    assert read_asset("ibm-ai-platform__Bamba-9B-v2", mamba_d_head="auto").layers == stated.layers


def test_granite_layers_have_two_spellings(read_asset: Callable[..., Architecture]) -> None:
    name = "ibm-granite__granite-4.0-h-micro-base"
    spelled = (["linear_attention"] * 5 + ["full_attention"] + ["linear_attention"] * 4) * 4
    assert read_asset(name, layer_types=..., layers_block_type=spelled).layers == read_asset(name).layers


def test_granite_small_has_32_billion_parameters_of_which_9_are_active(
    read_asset: Callable[..., Architecture],
) -> None:
    # ibm-granite/granite-4.0-h-small: published as 32B-A9B
    parameters = read_asset(
        "ibm-granite__granite-4.0-h-micro-base",
        hidden_size=4096,
        intermediate_size=768,
        shared_intermediate_size=1536,
        num_local_experts=72,
        num_experts_per_tok=10,
        mamba_n_heads=128,
    ).parameters
    assert parameters is not None
    assert parameters.active is not None
    assert (round(parameters.total / 1e9), round(parameters.active / 1e9)) == (32, 9)


def test_falcon_h1_attends_and_recurs_in_every_layer() -> None:
    architecture = read_config(FALCON_H1, "config.json", "falcon").architecture
    mamba = Mamba2(num_heads=24, head_dim=64, state_size=128, num_groups=1, conv_kernel=4)
    assert architecture.layers == 36 * ((FullAttention(num_kv_heads=2, head_dim=64), mamba),)
    assert architecture.parameters is not None
    assert architecture.parameters.total == 521_411_104  # transformers 5.23, same config


def test_falcon_h1_without_an_ssm_width_takes_the_expanded_one() -> None:
    values = FALCON_H1 | {"mamba_d_ssm": None, "mamba_n_heads": 32}
    layer = read_config(values, "config.json", "falcon").architecture.layers[0]
    assert layer[1] == Mamba2(num_heads=32, head_dim=64, state_size=128, num_groups=1, conv_kernel=4)
