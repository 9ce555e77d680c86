"""LFM2 and LFM2-MoE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.core.attention import FullAttention
from kvplan.core.model import Architecture
from kvplan.core.recurrent import ShortConv
from kvplan.specs.config_json import read_config


def test_a_convolution_of_width_three_keeps_two_columns(read_asset: Callable[..., Architecture]) -> None:
    # vLLM 0.32: 18 states [2, 2048], 6 attention layers of 8 heads of 64
    layers = read_asset("LiquidAI__LFM2-8B-A1B").layers
    conv = ShortConv(channels=2048, conv_kernel=3)
    assert layers.count((conv,)) == 18
    assert layers.count((FullAttention(num_kv_heads=8, head_dim=64),)) == 6
    assert conv.states()[0].elements == 2 * 2048


def test_the_dense_width_is_two_thirds_of_the_stated_one(read_json: Callable[[str], dict[str, Any]]) -> None:
    text = read_json("LiquidAI__LFM2-VL-1.6B")["text_config"]
    parameters = read_config(text, "config.json", "lfm2").architecture.parameters
    assert parameters is not None
    assert parameters.mlp == 16 * 3 * 2048 * 8192  # 12288 x 2 / 3
    assert parameters.total == 1_170_340_608  # transformers 5.23, text model


def test_attention_indices_spell_the_same_layers(read_json: Callable[[str], dict[str, Any]]) -> None:
    text = read_json("LiquidAI__LFM2-VL-1.6B")["text_config"]
    spelled = {key: value for key, value in text.items() if key != "layer_types"}
    spelled["full_attn_idxs"] = [2, 5, 8, 10, 12, 14]
    assert read_config(spelled, "c", "lfm2").architecture.layers == read_config(text, "c", "lfm2").architecture.layers
