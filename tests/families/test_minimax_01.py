"""MiniMax-01 and MiniMax-M1."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention import FullAttention
from kvplan.core.model import Architecture
from kvplan.core.recurrent import LinearAttention

M1 = "MiniMaxAI__MiniMax-M1-80k"


def test_every_eighth_layer_is_softmax_attention(read_asset: Callable[..., Architecture]) -> None:
    lightning = (LinearAttention(num_heads=64, head_dim=128),)
    softmax = (FullAttention(num_kv_heads=8, head_dim=128),)
    assert read_asset(M1).layers == 10 * (*(7 * (lightning,)), softmax)


def test_m1_has_456_billion_parameters_of_which_45_9_are_active(read_asset: Callable[..., Architecture]) -> None:
    # arXiv 2506.13585: 456 B and 45.9 B, embedding and output head left out of the second
    parameters = read_asset(M1).parameters
    assert parameters is not None
    assert parameters.active is not None
    assert round(parameters.total / 1e9) == 456
    assert round((parameters.active - parameters.embedding - parameters.output_head) / 1e8) == 459


def test_layer_types_are_transformers_spelling_of_the_same(read_asset: Callable[..., Architecture]) -> None:
    types = (["linear_attention"] * 7 + ["full_attention"]) * 10
    converted = read_asset(M1, model_type="minimax", attn_type_list=..., layer_types=types)
    assert converted.layers == read_asset(M1).layers
