"""Hymba."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, Shared, SlidingWindow
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1
from kvplan.specs.config_json import read_config

# nvidia/Hymba-1.5B-Base
GROUPS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [16, 17, 18]]
GROUPS += [[layer, layer + 1] for layer in range(19, 31, 2)]
HYMBA: dict[str, Any] = {
    "model_type": "hymba",
    "attn_hidden_size": -1,
    "attn_implementation": "flex",
    "attn_implementation_new": "flex",
    "conv_dim": {str(layer): 3200 for layer in range(32)},
    "global_attn_idx": [0, 15, 31],
    "hidden_size": 1600,
    "intermediate_size": 5504,
    "kq_head_dim": -1,
    "kv_reuse_every_i_layer": -1,
    "kv_reuse_group": GROUPS,
    "kv_weight_reuse": False,
    "layer_type": ["h"] * 32,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_dt_rank": 100,
    "mamba_expand": 2,
    "mamba_inner_layernorms": True,
    "mamba_proj_bias": False,
    "max_position_embeddings": 8192,
    "memory_tokens_interspersed_every": 0,
    "num_attention_heads": 25,
    "num_hidden_layers": 32,
    "num_key_value_heads": 5,
    "num_mamba": 1,
    "num_memory_tokens": 128,
    "sliding_window": 1024,
    "tie_word_embeddings": True,
    "v_head_dim": 128,
    "vocab_size": 32001,
}
MAMBA = Mamba1(intermediate_size=3200, state_size=16, conv_kernel=4)


def read(**changes: Any) -> Architecture:
    return read_config(HYMBA | changes, "config.json", "hymba").architecture


def test_three_layers_are_global_and_the_rest_slide() -> None:
    layers = read().layers
    heads = {"num_kv_heads": 5, "head_dim": 64, "v_head_dim": 128, "num_prefix_tokens": 128}
    full, sliding = (FullAttention(**heads), MAMBA), (SlidingWindow(**heads, window=1024), MAMBA)
    assert [index for index, layer in enumerate(layers) if layer == full] == [0, 15, 31]
    assert layers.count(sliding) == 14


def test_members_of_a_group_read_its_first_layer_and_keep_only_their_state() -> None:
    layers = read().layers
    assert layers.count((Shared(), MAMBA)) == 15
    source = layers[18][0]
    assert isinstance(source, Shared)
    assert source.source_layer == 16


def test_meta_tokens_are_kept_on_top_of_the_window() -> None:
    keys = read().layers[1][0].parts()[0]
    assert keys.resident_tokens(8192) == 1024 + 128


def test_parameters_equal_those_on_the_hub() -> None:
    parameters = read().parameters
    assert parameters is not None
    assert parameters.total == 1_522_797_824  # the count that the Hub shows for nvidia/Hymba-1.5B-Base


def test_meta_tokens_between_the_text_are_refused() -> None:
    with pytest.raises(SpecError, match="memory_tokens_interspersed_every"):
        read(memory_tokens_interspersed_every=512)


def test_a_group_with_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SpecError, match="kv_reuse_group"):
        read(kv_reuse_group=[[1, 32]])
