"""RecurrentGemma."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention import SlidingWindow
from kvplan.core.model import Architecture
from kvplan.core.recurrent import RgLru

NAME = "google__recurrentgemma-2b-it"


def test_every_third_layer_slides_over_2048_tokens(read_asset: Callable[..., Architecture]) -> None:
    architecture = read_asset(NAME)
    unit = (RgLru(width=2560, conv_kernel=4),)
    sliding = (SlidingWindow(num_kv_heads=1, head_dim=256, window=2048),)
    assert architecture.layers == 8 * (unit, unit, sliding) + (unit, unit)


def test_parameters_equal_those_of_transformers(read_asset: Callable[..., Architecture]) -> None:
    parameters = read_asset(NAME).parameters
    assert parameters is not None
    assert parameters.total == 2_682_862_080  # transformers 5.23


def test_block_types_have_two_spellings(read_asset: Callable[..., Architecture]) -> None:
    turned = read_asset(NAME, _block_types=..., block_types=["attention", "recurrent"])
    assert [layer[0].kind for layer in turned.layers[:3]] == ["sliding_window", "rg_lru", "sliding_window"]
