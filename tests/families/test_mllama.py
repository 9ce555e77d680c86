"""Llama 3.2 Vision: layers that cache the image and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import CrossAttention, FullAttention
from kvplan.core.errors import MissingKeyError, SpecError

NAME = "meta-llama__Llama-3.2-90B-Vision-Instruct"


def text_config(read_json: Any, **changes: Any) -> dict[str, Any]:
    return {**read_json(NAME)["text_config"], **changes}


def test_every_fifth_of_the_90b_models_layers_caches_the_image_alone(read_asset: Any) -> None:
    architecture = read_asset(NAME)
    crossing = [index for index, layer in enumerate(architecture.layers) if isinstance(layer[0], CrossAttention)]
    assert crossing == list(range(3, 100, 5))
    assert set(architecture.layers) == {
        (FullAttention(num_kv_heads=8, head_dim=128),),
        (CrossAttention(num_kv_heads=8, head_dim=128),),
    }


def test_an_image_of_four_tiles_is_6404_tokens(read_asset: Any) -> None:
    assert read_asset(NAME).encoder_tokens == 4 * (40 * 40 + 1)


def test_parameters_agree_with_the_models_own_code(read_asset: Any) -> None:
    # transformers 5.23 on the meta device: language model, then vision tower with projector
    parameters = read_asset(NAME).parameters
    assert parameters.total - parameters.towers == 87_666_865_192
    assert parameters.towers == 926_490_131


def test_an_impossible_cross_attention_layer_is_refused(read_asset: Any, read_json: Any) -> None:
    with pytest.raises(SpecError, match="names layer 100 of 100 layers"):
        read_asset(NAME, text_config=text_config(read_json, cross_attention_layers=[3, 100]))


def test_cross_attention_layers_are_never_guessed(read_asset: Any, read_json: Any) -> None:
    with pytest.raises(MissingKeyError, match="cross_attention_layers"):
        read_asset(NAME, text_config=text_config(read_json, cross_attention_layers=None))
