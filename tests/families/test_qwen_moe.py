"""Qwen's mixtures: which layers are dense, and windows that are written down but not in use."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.errors import SpecError
from kvplan.specs.config_json import read_config

# transformers 5.23's own model code, meta device
SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [1],
    "decoder_sparse_step": 2,
}


@pytest.mark.parametrize(
    ("changes", "total", "active"),
    [
        ({"model_type": "qwen3_moe"}, 363_424, 289_696),
        ({"model_type": "qwen2_moe", "shared_expert_intermediate_size": 48}, 382_464, 308_736),
    ],
)
def test_dense_layers_are_those_listed_and_those_between_steps(
    changes: dict[str, Any], total: int, active: int
) -> None:
    parameters = read_config({**SMALL, **changes}, "config.json", "model").architecture.parameters
    assert parameters is not None
    assert (parameters.total, parameters.active) == (total, active)


def test_qwen2_moe_in_use_slides_every_other_layer_below_max_window_layers(read_asset: Any) -> None:
    layers = read_asset(
        "Qwen__Qwen1.5-MoE-A2.7B", use_sliding_window=True, sliding_window=64, max_window_layers=4
    ).layers
    assert [layer[0].window_tokens for layer in layers[:6]] == [64, None, 64, None, None, None]


def test_qwen3_moe_in_use_slides_every_layer(read_asset: Any) -> None:
    layers = read_asset("Qwen__Qwen3-30B-A3B", use_sliding_window=True, sliding_window=64).layers
    assert {layer[0].window_tokens for layer in layers} == {64}


def test_layer_types_win_over_max_window_layers(read_asset: Any) -> None:
    types = ["full_attention"] * 23 + ["sliding_attention"]
    layers = read_asset("Qwen__Qwen1.5-MoE-A2.7B", use_sliding_window=True, layer_types=types).layers
    assert [layer[0].window_tokens for layer in layers] == [None] * 23 + [32768]


def test_layer_types_of_another_length_are_refused(read_asset: Any) -> None:
    with pytest.raises(SpecError, match="layer_types has 2 entries for 48 layers"):
        read_asset("Qwen__Qwen3-30B-A3B", layer_types=["full_attention"] * 2)
