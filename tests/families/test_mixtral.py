"""Mixtral's kin: sizes of published models without an asset, windows, draft layers, impossible values."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, SlidingWindow
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

PHI_35_MOE = {
    "model_type": "phimoe",
    "hidden_size": 4096,
    "intermediate_size": 6400,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "attention_bias": True,
    "lm_head_bias": True,
    "sliding_window": 131072,
    "vocab_size": 32064,
}
OLMOE = {
    "model_type": "olmoe",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "vocab_size": 50304,
    "clip_qkv": 8.0,
}
# transformers 5.23's own model code, meta device, eight experts of which two are used
SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def read(values: dict[str, Any]) -> Architecture:
    return read_config(values, "config.json", "model").architecture


@pytest.mark.parametrize(
    ("values", "total_billions", "active_billions"),
    [(PHI_35_MOE, 41.9, 6.6), (OLMOE, 6.92, 1.28)],  # model card of Phi-3.5-MoE; OLMoE paper, arXiv 2409.02060
)
def test_sizes_are_the_published_ones(values: dict[str, Any], total_billions: float, active_billions: float) -> None:
    parameters = read(values).parameters
    assert parameters is not None
    assert parameters.active is not None
    assert parameters.total / 1e9 == pytest.approx(total_billions, rel=0.002)
    assert parameters.active / 1e9 == pytest.approx(active_billions, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        ({"model_type": "flex_olmo"}, 1_078_560),
        ({"model_type": "granitemoeshared", "shared_intermediate_size": 48}, 1_133_376),
        ({"model_type": "granitemoeshared", "shared_intermediate_size": 48, "attention_bias": True}, 1_134_336),
        ({"model_type": "minimax_m2", "head_dim": 16}, 1_140_480),
    ],
)
def test_parameters_agree_with_the_models_own_code(changes: dict[str, Any], total: int) -> None:
    parameters = read({**SMALL, **changes}).parameters
    assert parameters is not None
    assert parameters.total == total


def test_a_stated_window_slides_every_layer_and_null_slides_none(read_asset: Any) -> None:
    name = "mistralai__Mixtral-8x7B-v0.1"
    assert set(read_asset(name, sliding_window=4096).layers) == {
        (SlidingWindow(num_kv_heads=8, head_dim=128, window=4096),)
    }
    assert set(read_asset(name).layers) == {(FullAttention(num_kv_heads=8, head_dim=128),)}


def test_absent_kv_heads_are_the_class_default_and_null_ones_are_all_heads(read_json: Any) -> None:
    values = read_json("mistralai__Mixtral-8x7B-v0.1")
    assert read({**values, "num_key_value_heads": None}).layers[0][0].head_shape()[0] == 32
    del values["num_key_value_heads"]
    absent = read_config(values, "config.json", "model")
    assert absent.architecture.layers[0][0].head_shape()[0] == 8
    assert any("num_key_value_heads is absent" in note for note in absent.notes)


def test_minimax_m2_drafts_with_three_modules_unless_switched_off(read_asset: Any) -> None:
    name = "MiniMaxAI__MiniMax-M2.5"
    assert read_asset(name).draft_layers == 3 * ((FullAttention(num_kv_heads=8, head_dim=128),),)
    assert read_asset(name, use_mtp=False).draft_layers == ()


def test_minimax_m2_with_lightning_attention_is_refused(read_asset: Any) -> None:
    with pytest.raises(SpecError, match="attn_type_list"):
        read_asset("MiniMaxAI__MiniMax-M2.5", attn_type_list=[1, 0] * 31)


def test_a_trimmed_file_names_the_missing_key(read_asset: Any) -> None:
    with pytest.raises(MissingKeyError, match="num_local_experts"):
        read_asset("mistralai__Mixtral-8x7B-v0.1", num_local_experts=...)


def test_more_experts_per_token_than_experts_are_refused(read_asset: Any) -> None:
    with pytest.raises(SpecError, match="must not exceed the 8 experts"):
        read_asset("mistralai__Mixtral-8x7B-v0.1", num_experts_per_tok=9)
