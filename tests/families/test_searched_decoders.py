"""OpenELM, DeciLM and Llama-Nemotron: layers that differ from one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from kvplan.core.attention import FullAttention, NoCache, SlidingWindow
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

FULL_ATTENTION = {"n_heads_in_group": 2, "no_op": False, "replace_with_linear": False}


def searched(*attentions: dict[str, Any], ffn: dict[str, Any] | None = None) -> Architecture:
    values = {
        "model_type": "nemotron-nas",
        "hidden_size": 768,
        "num_attention_heads": 8,
        "num_hidden_layers": len(attentions),
        "vocab_size": 1000,
        "block_configs": [{"attention": entry, "ffn": ffn or {"ffn_mult": 1.0}} for entry in attentions],
    }
    return read_config(values, "config.json", "searched").architecture


def test_nemotron_super_stores_in_49_of_80_layers(read_asset: Callable[..., Architecture]) -> None:
    # vLLM 0.32: 49 FullAttentionSpec layers of 8 heads of 128; the published checkpoint has 49,867,145,216 parameters
    architecture = read_asset("nvidia__Llama-3_3-Nemotron-Super-49B-v1")
    kinds = Counter(kind for layer in architecture.layers for kind in layer)
    assert kinds == {FullAttention(num_kv_heads=8, head_dim=128): 49, NoCache(): 31}
    assert architecture.parameters is not None
    assert architecture.parameters.total == 49867145216


def test_each_block_has_its_own_heads_or_none() -> None:
    architecture = searched(
        FULL_ATTENTION,
        {**FULL_ATTENTION, "n_heads_in_group": 8},
        {"n_heads_in_group": None, "no_op": True},
        {"replace_with_linear": True},
        {**FULL_ATTENTION, "window_length": 100, "num_sink_tokens": 4},
    )
    assert [layer[0] for layer in architecture.layers] == [
        FullAttention(num_kv_heads=4, head_dim=96),
        FullAttention(num_kv_heads=1, head_dim=96),
        NoCache(),
        NoCache(),
        SlidingWindow(num_kv_heads=4, head_dim=96, window=100, num_sink_tokens=4),
    ]


def test_widths_are_two_thirds_of_the_multiple_rounded_up_to_256() -> None:
    # 2 x 1.0 x 768 / 3 = 512; 2 x 1.3 x 768 / 3 = 665 -> 768
    for multiplier, width in ((1.0, 512), (1.3, 768)):
        parameters = searched(FULL_ATTENTION, ffn={"ffn_mult": multiplier}).parameters
        assert parameters is not None
        assert parameters.mlp == 3 * 768 * width


def test_a_block_left_out_has_no_norm_and_no_weights() -> None:
    parameters = searched({"no_op": True}, ffn={"no_op": True}).parameters
    assert parameters is not None
    assert (parameters.attention, parameters.mlp, parameters.norms) == (0, 0, 768)


@pytest.mark.parametrize(
    ("attention", "problem"),
    [
        ({"n_heads_in_group": None, "no_op": False}, r"block_configs\[0\].attention.n_heads_in_group"),
        ({"n_heads_in_group": 3}, "3 does not divide the 8 attention heads"),
        ({**FULL_ATTENTION, "sparsify": ["half"]}, "sparsify is unknown and could change the cache"),
    ],
)
def test_a_block_that_is_not_understood_is_named(attention: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        searched(attention)


def test_decilm_has_a_list_of_key_value_heads() -> None:
    # the layout of Deci/DeciLM-7B: 32 layers of 4, 2 and 1 heads of 128
    heads = [1] + 15 * [2] + 16 * [4]
    values = {
        "model_type": "deci",
        "architectures": ["DeciLMForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads_per_layer": heads,
        "vocab_size": 32000,
    }
    layers = read_config(values, "config.json", "decilm").architecture.layers
    assert [layer[0].head_shape()[0] for layer in layers] == heads
    without = {key: value for key, value in values.items() if key != "num_key_value_heads_per_layer"}
    with pytest.raises(MissingKeyError, match="block_configs"):
        read_config(without, "config.json", "decilm")


def test_openelm_sums_its_list_of_heads(
    read_asset: Callable[..., Architecture], read_json: Callable[[str], dict[str, Any]]
) -> None:
    architecture = read_asset("apple__OpenELM-3B")
    stated = read_json("apple__OpenELM-3B")["num_kv_heads"]
    assert [layer[0].head_shape()[:2] for layer in architecture.layers] == [(count, 128) for count in stated]
    assert architecture.max_context_tokens == 2048
    assert architecture.parameters is not None
    assert architecture.parameters.total == 3036647424  # as the published checkpoint
    assert architecture.parameters.output_head == 0


def test_openelm_with_a_short_list_is_refused(
    read_asset: Callable[..., Architecture], read_json: Callable[[str], dict[str, Any]]
) -> None:
    heads = deepcopy(read_json("apple__OpenELM-3B")["num_kv_heads"])[:-1]
    with pytest.raises(SpecError, match="num_kv_heads has 35 entries for 36 layers"):
        read_asset("apple__OpenELM-3B", num_kv_heads=heads)
