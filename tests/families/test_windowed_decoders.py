"""Mistral, Qwen, Phi, Cohere, OLMo 3, EXAONE 4, SmolLM3: where the windows lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config


def windows(architecture: Architecture) -> list[int | None]:
    return [kind.window_tokens for layer in architecture.layers for kind in layer]


def tiny(model_type: str, **changes: Any) -> Architecture:
    values = {
        "model_type": model_type,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_hidden_layers": 8,
        "intermediate_size": 100,
        "vocab_size": 1000,
    }
    return read_config({**values, **changes}, "config.json", "tiny").architecture


def test_mistral_without_a_window_key_takes_the_class_default_with_a_note(
    read_asset: Callable[..., Architecture],
) -> None:
    # vLLM 0.32's own planner makes SlidingWindowSpec(4096) of this file, whatever its sliding_window_size says
    architecture = read_asset("mistralai__Mistral-7B-Instruct-v0.2")
    assert windows(architecture) == 32 * [4096]
    assert any("sliding_window is absent: 4096" in note for note in architecture.notes)


def test_mistral_with_a_null_window_has_none(read_asset: Callable[..., Architecture]) -> None:
    assert windows(read_asset("mistralai__Mistral-7B-Instruct-v0.1", sliding_window=None)) == 32 * [None]


def test_ministral_8b_is_full_in_every_fourth_layer_from_the_first(read_asset: Callable[..., Architecture]) -> None:
    assert windows(read_asset("mistralai__Ministral-8B-Instruct-2410")) == 9 * [None, 32768, 32768, 32768]


def test_qwen_has_a_window_only_if_it_is_used(read_asset: Callable[..., Architecture]) -> None:
    assert windows(read_asset("Qwen__Qwen2.5-7B-Instruct")) == 28 * [None]
    used = read_asset("Qwen__Qwen2.5-7B-Instruct", use_sliding_window=True, max_window_layers=20)
    assert windows(used) == 20 * [None] + 8 * [131072]


@pytest.mark.parametrize("model_type", ["cohere2", "olmo3", "exaone4"])
def test_three_layers_slide_and_the_fourth_is_full_by_default(model_type: str) -> None:
    assert windows(tiny(model_type, sliding_window=9)) == 2 * [9, 9, 9, None]


def test_exaone4_reads_its_layout_as_letters_or_number() -> None:
    letters = tiny("exaone4", sliding_window=9, sliding_window_pattern="LLLG")
    assert letters.layers == tiny("exaone4", sliding_window=9, sliding_window_pattern=4).layers


def test_exaone4_without_a_window_is_full_everywhere() -> None:
    # LGAI-EXAONE/EXAONE-4.0-1.2B: both keys are null
    assert windows(tiny("exaone4", sliding_window=None, sliding_window_pattern=None)) == 8 * [None]


def test_smollm3_slides_only_in_the_layers_without_rotary_embedding() -> None:
    used = {"use_sliding_window": True, "sliding_window": 9}
    assert windows(tiny("smollm3", **used)) == 2 * [None, None, None, 9]
    assert windows(tiny("smollm3", no_rope_layers=[0, 1] * 4, **used)) == 4 * [9, None]
    # HuggingFaceTB/SmolLM3-3B
    assert windows(tiny("smollm3", use_sliding_window=False, max_window_layers=28)) == 8 * [None]


def test_phi4_with_mixed_layers_is_refused() -> None:
    with pytest.raises(SpecError, match="full_attn_mod"):
        tiny("phi4", sliding_window=9, full_attn_mod=2)


def test_mimo_has_a_draft_layer_like_its_own() -> None:
    # XiaomiMiMo/MiMo-7B-Base: num_nextn_predict_layers 1, biased query, key and value
    model = tiny("mimo", num_nextn_predict_layers=1, attention_bias=True)
    assert model.draft_layers == model.layers[-1:]
    assert model.parameters is not None
    assert model.parameters.mtp > 0
    assert model.parameters.total == tiny("mimo", attention_bias=True).parameters.total  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("class_name", "model_type"),
    [("Qwen3ForCausalLM", "qwen3"), ("Cohere2ForCausalLM", "cohere2"), ("InternLM2ForCausalLM", "internlm2")],
)
def test_a_config_without_model_type_is_known_by_its_class(class_name: str, model_type: str) -> None:
    named = tiny(model_type, architectures=[class_name])
    assert tiny("", architectures=[class_name]) == named
    assert tiny("renamed-by-its-owner", architectures=[class_name]) == named
