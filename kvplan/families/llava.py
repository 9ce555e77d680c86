"""LLaVA and its kin: a shared vision tower, a projector of two linear layers, and any language model.

LLaVA 1.5, LLaVA-NeXT, LLaVA-NeXT-Video, LLaVA-OneVision, VipLLaVA, Pixtral (as LLaVA) and Mistral 3 with vision.
Shapes: transformers 5.23, ``models/{llava,llava_next,llava_next_video,llava_onevision,vipllava,mistral3}``.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import text_model, tower_section, with_towers
from kvplan.core.towers import layer_norm, two_linears
from kvplan.core.vision_towers import vision_tower

WITH_IMAGE_NEWLINE = ("llava_next", "llava_next_video", "llava_onevision")
"""Their models learn one vector that ends a row of image patches."""

VIPLLAVA_FEATURE_LAYERS = 5
"""VipLlavaConfig's default: the features of five layers side by side."""


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the vision tower's parameters."""
    wrapper = config.text("model_type", default="llava")
    text = text_model(config, "text_config", model_type="mistral" if wrapper == "mistral3" else "llama")
    section = tower_section(config, "vision_config")
    tower = vision_tower(section, "pixtral" if wrapper == "mistral3" else "clip_vision_model") if section else None
    features = _feature_layers(config, wrapper)
    bias = config.flag("multimodal_projector_bias", default=wrapper != "mistral3")
    merge = config.integer("spatial_merge_size", default=2) if wrapper == "mistral3" else 1
    if tower is None:
        return text
    projector = two_linears(tower.hidden_size * features, text.hidden_size, text.hidden_size, bias)
    beside = _beside(wrapper, tower.hidden_size, features, merge, text.hidden_size)
    return with_towers(text, tower.parameters + projector + beside)


def _feature_layers(config: ConfigReader, wrapper: str) -> int:
    """Layers of the tower whose features stand side by side at the projector's input."""
    if isinstance(config.value("vision_feature_layer"), list):
        return len(config.value("vision_feature_layer"))
    stated = config.value("vision_feature_layers")
    if isinstance(stated, list):
        return len(stated)
    return VIPLLAVA_FEATURE_LAYERS if wrapper == "vipllava" else 1


def _beside(wrapper: str, hidden: int, features: int, merge: int, text_hidden: int) -> int:
    """Parameters beside the two linear layers: a newline vector, norms, Mistral 3's patch merger."""
    if wrapper in WITH_IMAGE_NEWLINE:
        return text_hidden
    if wrapper == "vipllava":
        return layer_norm(hidden * features)
    if wrapper == "mistral3":
        return hidden + linear(hidden * merge**2, hidden)
    return 0


FAMILY = Family(
    name="llava",
    model_types=("llava", "llava_next", "llava_next_video", "llava_onevision", "vipllava", "mistral3"),
    architectures=(
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaNextVideoForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "VipLlavaForConditionalGeneration",
        "Mistral3ForConditionalGeneration",
    ),
    read=read,
    neutral_keys=frozenset(
        """
        image_token_index image_token_id video_token_index video_token_id ignore_index image_seq_length
        projector_hidden_act projector_layernorm_eps image_grid_pinpoints vision_feature_select_strategy
        spatial_pool_mode spatial_pool_stride use_image_newline_parameter vision_aspect_ratio
        """.split()
    ),
)
