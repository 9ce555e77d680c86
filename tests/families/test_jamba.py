"""Jamba."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention import FullAttention
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1


def test_one_layer_of_eight_attends(read_asset: Callable[..., Architecture]) -> None:
    architecture = read_asset("ai21labs__Jamba-v0.1")
    attention = (FullAttention(num_kv_heads=8, head_dim=128),)
    assert [index for index, layer in enumerate(architecture.layers) if layer == attention] == [4, 12, 20, 28]
    assert architecture.layers[0] == (Mamba1(intermediate_size=8192, state_size=16, conv_kernel=4),)
    assert architecture.max_context_tokens == 262_144  # n_ctx, the older spelling


def test_a_single_expert_is_a_plain_mlp(read_asset: Callable[..., Architecture]) -> None:
    parameters = read_asset("ai21labs__Jamba-v0.1", num_experts=1, num_experts_per_tok=1).parameters
    assert parameters is not None
    assert (parameters.experts, parameters.routers, parameters.active) == (0, 0, None)
    assert parameters.mlp == 32 * 3 * 4096 * 14336
