"""Tower arithmetic against parameter counts of real model code: transformers 5.23 on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.audio_towers import whisper_encoder
from kvplan.core.config_reader import ConfigReader
from kvplan.core.qwen_vision import qwen2_5_vision, qwen2_vision, qwen3_vision
from kvplan.core.towers import EncoderShape, convolution, two_linears
from kvplan.core.vision_towers import siglip_parameters, vision_tower


def section(**values: Any) -> ConfigReader:
    return ConfigReader(values, "config.json", "vision_config.")


def test_a_layer_is_its_projections_biases_and_norms() -> None:
    # by hand, width 4 and feed-forward 8: attention 4 x (16 + 4), feed-forward 32 + 8 + 32 + 4, norms 2 x 8
    shape = EncoderShape(hidden_size=4, num_layers=3, intermediate_size=8)
    assert shape.parameters() == 3 * (80 + 76 + 16)


def test_a_layer_without_biases_has_weights_only() -> None:
    # by hand: attention 4 x 4 x 6 (width 6), gated feed-forward 3 x 32, RMS norms 2 x 4, 5 extra
    shape = EncoderShape(
        hidden_size=4,
        num_layers=1,
        intermediate_size=8,
        attention_width=6,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        gated=True,
        norm_bias=False,
        extra=5,
    )
    assert shape.parameters() == 96 + 96 + 8 + 5


def test_whispers_key_projection_alone_has_no_bias() -> None:
    with_bias = EncoderShape(hidden_size=4, num_layers=2, intermediate_size=8)
    without = EncoderShape(hidden_size=4, num_layers=2, intermediate_size=8, key_bias=False)
    assert with_bias.parameters() - without.parameters() == 2 * 4


def test_a_convolution_has_a_weight_per_position_and_pair_of_channels() -> None:
    assert convolution(3, 8, 14 * 14) == 3 * 8 * 14 * 14 + 8
    assert convolution(3, 8, 14 * 14, bias=False) == 3 * 8 * 14 * 14


def test_two_linears_are_the_usual_projector() -> None:
    assert two_linears(1024, 4096, 4096) == 1024 * 4096 + 4096 + 4096 * 4096 + 4096


# LlavaForConditionalGeneration's default tower (CLIP ViT-L/14 at 336 pixels): 324,487,168 with a projector to 4096
def test_clip_large_has_the_parameters_of_llavas_tower() -> None:
    clip = section(
        model_type="clip_vision_model",
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    tower = vision_tower(clip, "siglip_vision_model")
    assert tower is not None
    assert tower.parameters == 324_487_168 - two_linears(1024, 4096, 4096)
    assert tower.hidden_size == 1024


# SiglipVisionModel with default sizes, head included: 94,654,464 with Gemma 3's projector (768 x 2304 + 768)
def test_siglip_counts_its_pooling_head_unless_it_is_switched_off() -> None:
    assert siglip_parameters(section()) == 94_654_464 - 768 * 2304 - 768
    headless = siglip_parameters(section(vision_use_head=False))
    assert (
        siglip_parameters(section()) - headless == 768 + 4 * (768 * 768 + 768) + 2 * 768 + 2 * 768 * 3072 + 3072 + 768
    )


# Qwen2VL (hidden 3584), Qwen2.5-VL and Qwen3-VL vision models with class defaults: transformers 5.23
@pytest.mark.parametrize(
    ("count", "parameters"),
    [(qwen2_vision, 675_759_104), (qwen2_5_vision, 3_083_025_152)],
)
def test_qwen2_towers_with_class_defaults(count: Any, parameters: int) -> None:
    assert count(section()) == parameters


def test_qwen3_tower_has_one_more_merger_per_deepstack_layer() -> None:
    # transformers 5.23: Qwen3-VL's defaults with three deepstack layers, Qwen3.5's without
    assert qwen3_vision(section(deepstack_visual_indexes=[8, 16, 24])) == 566_949_104
    assert qwen3_vision(section()) == 453_650_672


def test_whispers_encoder_is_qwen2_audios_tower() -> None:
    # Qwen2AudioForConditionalGeneration with class defaults: 642,215,936 with a projection to 4096
    assert whisper_encoder(section()) == 642_215_936 - 1280 * 4096 - 4096


def test_an_unknown_tower_is_not_counted_and_says_so() -> None:
    reader = section(model_type="intern_radio")
    assert vision_tower(reader, "clip_vision_model") is None
    assert reader.notes == ["the vision tower 'intern_radio' is not known: its parameters are not counted"]


def test_a_size_taken_from_the_class_is_noted() -> None:
    reader = section(hidden_size=1024, intermediate_size=4096, patch_size=16, model_type="pixtral")
    assert vision_tower(reader, "pixtral") is not None
    assert reader.notes == ["vision_config.num_hidden_layers is not stated: transformers 5.23's class default 24 holds"]
