"""Jet-Nemotron."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention import FullAttention, SlidingWindow
from kvplan.core.model import Architecture
from kvplan.core.part import state_bytes
from kvplan.core.recurrent import GatedDeltaNet, ShortConv


def test_two_layers_attend_in_full_and_two_slide(read_asset: Callable[..., Architecture]) -> None:
    layers = read_asset("nvidia__Jet-Nemotron-2B").layers
    full = (FullAttention(num_kv_heads=2, head_dim=128),)
    sliding = (SlidingWindow(num_kv_heads=2, head_dim=128, window=1152),)
    assert [index for index, layer in enumerate(layers) if layer == full] == [14, 19]
    assert [index for index, layer in enumerate(layers) if layer == sliding] == [20, 21]


def test_a_jet_block_keeps_a_state_and_the_inputs_of_its_values(read_asset: Callable[..., Architecture]) -> None:
    layer = read_asset("nvidia__Jet-Nemotron-2B").layers[0]
    state = GatedDeltaNet(num_k_heads=12, num_v_heads=12, k_head_dim=96, v_head_dim=256, conv_kernel=1)
    assert layer == (state, ShortConv(channels=3072, conv_kernel=4))
    # 12 heads x 96 x 256 floats, and 3 columns of 3072 values in 16 bits
    assert sum(state_bytes(tensor) for kind in layer for tensor in kind.states()) == 12 * 96 * 256 * 4 + 3 * 3072 * 2


def test_the_2b_model_has_two_billion_parameters(read_asset: Callable[..., Architecture]) -> None:
    parameters = read_asset("nvidia__Jet-Nemotron-2B").parameters
    assert parameters is not None
    assert round(parameters.total / 1e8) == 20
