"""Zamba and Zamba2; parameter counts are those of transformers 5.23's models of the same configs."""

from __future__ import annotations

import pytest

from kvplan.core.attention import FullAttention
from kvplan.core.errors import MissingKeyError
from kvplan.core.recurrent import Mamba1, Mamba2
from kvplan.specs.config_json import read_config

ZAMBA = {
    "model_type": "zamba",
    "attention_head_dim": 464,
    "attention_hidden_size": 7424,
    "attn_layer_offset": 4,
    "attn_layer_period": 6,
    "hidden_size": 3712,
    "intermediate_size": 14848,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_dt_rank": 232,
    "mamba_expand": 2,
    "max_position_embeddings": 4096,
    "n_mamba_heads": 2,
    "num_attention_heads": 16,
    "num_hidden_layers": 20,
    "num_key_value_heads": 16,
    "vocab_size": 32000,
}

ZAMBA2 = {
    "model_type": "zamba2",
    "adapter_rank": 128,
    "attention_head_dim": 160,
    "attention_hidden_size": 5120,
    "hidden_size": 2560,
    "hybrid_layer_ids": [5, 9, 12],
    "kv_channels": 80,
    "layers_block_type": ["mamba"] * 5 + ["hybrid"] + ["mamba"] * 3 + ["hybrid"] + ["mamba"] * 2 + ["hybrid"],
    "mamba_d_conv": 4,
    "mamba_d_state": 64,
    "mamba_expand": 2,
    "mamba_headdim": 640,
    "mamba_ngroups": 1,
    "max_position_embeddings": 4096,
    "n_mamba_heads": 8,
    "num_attention_heads": 32,
    "num_hidden_layers": 13,
    "num_key_value_heads": 32,
    "num_mem_blocks": 2,
    "num_query_groups": 32,
    "use_mem_rope": True,
    "use_shared_attention_adapter": True,
    "vocab_size": 32000,
}


def test_zamba_keeps_a_cache_for_each_use_of_its_shared_block() -> None:
    architecture = read_config(ZAMBA, "config.json", "zamba").architecture
    mamba = Mamba1(intermediate_size=7424, state_size=16, conv_kernel=4)
    hybrid = (FullAttention(num_kv_heads=16, head_dim=464), mamba)
    assert [index for index, layer in enumerate(architecture.layers) if layer == hybrid] == [2, 7, 13, 19]
    assert architecture.layers.count((mamba,)) == 16


def test_zamba_counts_its_shared_block_once() -> None:
    parameters = read_config(ZAMBA, "config.json", "zamba").architecture.parameters
    assert parameters is not None
    assert parameters.total == 2_262_775_808


def test_zamba2_has_heads_of_twice_the_width() -> None:
    architecture = read_config(ZAMBA2, "config.json", "zamba2").architecture
    mamba = Mamba2(num_heads=8, head_dim=640, state_size=64, num_groups=1, conv_kernel=4)
    hybrid = (FullAttention(num_kv_heads=32, head_dim=160), mamba)
    assert [index for index, layer in enumerate(architecture.layers) if layer == hybrid] == [5, 9, 12]


def test_zamba2_counts_two_shared_blocks_and_an_adapter_per_use() -> None:
    parameters = read_config(ZAMBA2, "config.json", "zamba2").architecture.parameters
    assert parameters is not None
    assert parameters.total == 979_177_912


def test_zamba2_long_context_is_16k() -> None:
    assert read_config(ZAMBA2, "c", "z").architecture.max_context_tokens == 4096
    assert read_config(ZAMBA2 | {"use_long_context": True}, "c", "z").architecture.max_context_tokens == 16384


def test_zamba2_without_layer_types_is_refused() -> None:
    values = {key: value for key, value in ZAMBA2.items() if key != "layers_block_type"}
    with pytest.raises(MissingKeyError, match="layers_block_type"):
        read_config(values, "config.json", "zamba2")
