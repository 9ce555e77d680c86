"""ERNIE 4.5's mixtures of experts: published sizes, and keys that have no agreed default."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention
from kvplan.core.errors import MissingKeyError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

A3B = {
    "model_type": "ernie4_5_moe",
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "moe_num_experts": 64,
    "moe_k": 6,
    "moe_num_shared_experts": 2,
    "moe_intermediate_size": 1536,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 27,
    "moe_layer_interval": 1,
    "num_nextn_predict_layers": 1,
    "tie_word_embeddings": True,
    "vocab_size": 103424,
}
A47B = {
    **A3B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 54,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "moe_k": 8,
    "moe_num_shared_experts": 0,
    "moe_intermediate_size": 3584,
    "moe_layer_start_index": 3,
    "moe_layer_end_index": 53,
    "tie_word_embeddings": False,
}


def read(values: dict[str, Any]) -> Architecture:
    return read_config(values, "config.json", "model").architecture


@pytest.mark.parametrize(
    ("values", "total_billions", "active_billions"),
    [(A3B, 21.8, 3.35), (A47B, 300, 47)],  # ERNIE 4.5 technical report
)
def test_sizes_are_the_published_ones(values: dict[str, Any], total_billions: float, active_billions: float) -> None:
    parameters = read(values).parameters
    assert parameters is not None
    assert parameters.active is not None
    assert parameters.total / 1e9 == pytest.approx(total_billions, rel=0.003)
    assert parameters.active / 1e9 == pytest.approx(active_billions, rel=0.03)


def test_layers_and_draft_layer_are_full_attention() -> None:
    full = (FullAttention(num_kv_heads=4, head_dim=128),)
    assert read(A3B).layers == 28 * (full,)
    assert read(A3B).draft_layers == (full,)


@pytest.mark.parametrize(
    ("changes", "total", "active"),
    [  # transformers 5.23's own model code, meta device
        ({"use_bias": True, "moe_num_shared_experts": 2, "moe_layer_interval": 2}, 370_752, 260_160),
        ({"moe_num_shared_experts": 0, "moe_layer_end_index": 4, "tie_word_embeddings": False}, 425_824, 278_368),
    ],
)
def test_parameters_agree_with_the_models_own_code(changes: dict[str, Any], total: int, active: int) -> None:
    small = {
        **A3B,
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_intermediate_size": 32,
        "moe_layer_end_index": -1,
    }
    parameters = read({**small, **changes}).parameters
    assert parameters is not None
    assert (parameters.total, parameters.active) == (total, active)


@pytest.mark.parametrize("key", ["moe_num_shared_experts", "moe_layer_end_index", "moe_num_experts", "hidden_size"])
def test_a_trimmed_file_names_the_missing_key(key: str) -> None:
    with pytest.raises(MissingKeyError, match=key):
        read({name: value for name, value in A3B.items() if name != key})
