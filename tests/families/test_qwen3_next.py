"""Qwen3-Next, Qwen3.5 and Qwen3.6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.core.attention import FullAttention
from kvplan.core.model import Architecture
from kvplan.core.recurrent import GatedDeltaNet
from kvplan.specs.config_json import read_config


def test_every_fourth_layer_of_qwen3_next_attends(read_asset: Callable[..., Architecture]) -> None:
    # vLLM 0.32: 36 states [3, 8192] and [32, 128, 128], 12 attention layers of 2 heads of 256
    full = (FullAttention(num_kv_heads=2, head_dim=256),)
    delta = (GatedDeltaNet(num_k_heads=16, num_v_heads=32, k_head_dim=128, v_head_dim=128, conv_kernel=4),)
    assert read_asset("Qwen__Qwen3-Next-80B-A3B-Instruct").layers == 12 * (delta, delta, delta, full)


def test_layer_types_win_over_the_interval(read_asset: Callable[..., Architecture]) -> None:
    types = ["full_attention"] + ["linear_attention"] * 47
    layers = read_asset("Qwen__Qwen3-Next-80B-A3B-Instruct", layer_types=types).layers
    assert layers[0] == (FullAttention(num_kv_heads=2, head_dim=256),)
    assert layers.count(layers[0]) == 1


def test_mlp_only_layers_have_no_experts(read_asset: Callable[..., Architecture]) -> None:
    name = "Qwen__Qwen3-Next-80B-A3B-Instruct"
    all_sparse, one_dense = read_asset(name).parameters, read_asset(name, mlp_only_layers=[0]).parameters
    assert all_sparse is not None
    assert one_dense is not None
    assert one_dense.experts * 48 == all_sparse.experts * 47


def test_the_draft_layer_of_qwen3_next_stands_in_the_checkpoint_alone(read_asset: Callable[..., Architecture]) -> None:
    """Its card: 80B in total; its files: 81B. vLLM 0.32 ``models/qwen3_next_mtp.py`` loads one layer."""
    name = "Qwen__Qwen3-Next-80B-A3B-Instruct"
    unstated, none = read_asset(name), read_asset(name, num_nextn_predict_layers=0)
    assert unstated.draft_layers == ((FullAttention(num_kv_heads=2, head_dim=256),),)
    assert any("draft layers that its config does not state" in note for note in unstated.notes)
    assert unstated.parameters is not None
    assert none.parameters is not None
    assert (none.draft_layers, none.notes, none.parameters.mtp) == ((), (), 0)
    assert unstated.parameters.total == none.parameters.total
    assert round((unstated.parameters.total + unstated.parameters.mtp) / 1e9) == 81


def test_qwen_3_5_has_one_draft_layer_and_a_state_dtype(read_json: Callable[[str], dict[str, Any]]) -> None:
    text = read_json("Qwen__Qwen3.5-27B")["text_config"]
    architecture = read_config(text, "config.json", "qwen").architecture
    assert architecture.draft_layers == ((FullAttention(num_kv_heads=4, head_dim=256),),)
    assert architecture.parameters is not None
    assert architecture.parameters.total == 26_895_998_464  # transformers 5.23, text model
    halved = read_config(text | {"mamba_ssm_dtype": "bfloat16"}, "config.json", "qwen").architecture
    kinds = [layer[0] for layer in halved.layers]
    assert {kind.state_dtype for kind in kinds if isinstance(kind, GatedDeltaNet)} == {"bf16"}
