"""Kimi Linear, Kimi K3's text model and Ling 3.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.core.attention import Latent
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.core.recurrent import KimiDeltaAttention
from kvplan.specs.config_json import read_config

# moonshotai/Kimi-Linear-48B-A3B-Instruct
FULL_LAYERS = [4, 8, 12, 16, 20, 24, 27]
KIMI_LINEAR: dict[str, Any] = {
    "model_type": "kimi_linear",
    "first_k_dense_replace": 1,
    "head_dim": 72,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "kv_lora_rank": 512,
    "linear_attn_config": {
        "full_attn_layers": FULL_LAYERS,
        "head_dim": 128,
        "kda_layers": [layer for layer in range(1, 28) if layer not in FULL_LAYERS],
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
    "mla_use_nope": True,
    "model_max_length": 1048576,
    "moe_intermediate_size": 1024,
    "moe_layer_freq": 1,
    "num_attention_heads": 32,
    "num_expert_group": 1,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_hidden_layers": 27,
    "num_key_value_heads": 32,
    "num_nextn_predict_layers": 0,
    "num_shared_experts": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "tie_word_embeddings": False,
    "v_head_dim": 128,
    "vocab_size": 163840,
}

# inclusionAI Ling 3.0 as transformers 5.23 BailingHybridConfig(num_hidden_layers=12) writes it
LING = {
    "model_type": "bailing_hybrid",
    "first_k_dense_replace": 2,
    "head_dim": 128,
    "hidden_size": 2560,
    "intermediate_size": 6144,
    "kda_safe_gate": True,
    "kv_lora_rank": 512,
    "layer_group_size": 6,
    "max_position_embeddings": 262144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 512,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 12,
    "num_key_value_heads": 32,
    "num_nextn_predict_layers": 1,
    "num_shared_experts": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "short_conv_kernel_size": 4,
    "v_head_dim": 128,
    "vocab_size": 157184,
}
LATENT = (Latent(kv_lora_rank=512, qk_rope_head_dim=64),)


def read(values: dict[str, Any]) -> Architecture:
    return read_config(values, "config.json", "kimi").architecture


def test_layers_are_counted_from_one() -> None:
    layers = read(KIMI_LINEAR).layers
    assert [index + 1 for index, layer in enumerate(layers) if layer == LATENT] == FULL_LAYERS
    assert layers[0] == (KimiDeltaAttention(num_heads=32, head_dim=128, conv_kernel=4),)


def test_kimi_linear_is_48b_with_3b_active() -> None:
    # the exact count is transformers 5.23's of the same config; 3B active is the paper's (arXiv 2510.26692)
    parameters = read(KIMI_LINEAR).parameters
    assert parameters is not None
    assert parameters.active is not None
    assert parameters.total == 49_122_675_072
    assert round((parameters.active - parameters.embedding) / 1e9) == 3


def test_a_layer_named_twice_is_refused() -> None:
    twice = KIMI_LINEAR["linear_attn_config"] | {"kda_layers": list(range(1, 28))}
    with pytest.raises(SpecError, match="must name each of the layers 1 to 27 once"):
        read(KIMI_LINEAR | {"linear_attn_config": twice})


def test_kimi_k3_keeps_69_states_and_24_latents(read_json: Callable[[str], dict[str, Any]]) -> None:
    # vLLM 0.32: 69 states [3, 36864] and [96, 128, 128], 24 latent layers of 576 elements
    layers = read(read_json("moonshotai__Kimi-K3")["text_config"]).layers
    assert layers.count(LATENT) == 24
    assert layers.count((KimiDeltaAttention(num_heads=96, head_dim=128, conv_kernel=4),)) == 69


def test_ling_attends_at_the_end_of_each_group_and_in_its_draft_layer() -> None:
    architecture = read(LING)
    assert [index for index, layer in enumerate(architecture.layers) if layer == LATENT] == [5, 11]
    assert architecture.draft_layers == (LATENT,)
    assert architecture.parameters is not None
    assert architecture.parameters.total == 31_864_726_592  # transformers 5.23, same config
