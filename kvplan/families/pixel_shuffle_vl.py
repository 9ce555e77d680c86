"""Vision-language models that fold neighbouring patches into one (pixel shuffle) before the projector.

Aya Vision, Cohere 2 Vision (Command A Vision), Idefics 3, SmolVLM and LFM2-VL.
Shapes: transformers 5.23, ``models/{aya_vision,cohere2_vision,idefics3,smolvlm,lfm2_vl}``.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import text_model, tower_section, with_towers
from kvplan.core.towers import layer_norm, two_linears
from kvplan.core.vision_towers import vision_tower

NESTED_TYPES = {
    "aya_vision": ("cohere2", "siglip_vision_model"),
    "cohere2_vision": ("cohere2", "siglip_vision_model"),
    "idefics3": ("llama", "idefics3_vision"),
    "smolvlm": ("llama", "smolvlm_vision"),
    "lfm2_vl": ("lfm2", "siglip2_vision_model"),
}
"""Per wrapper: what its text and vision sections are where they do not say so themselves."""


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of tower and projector."""
    wrapper = config.text("model_type", default="idefics3")
    text_type, vision_type = NESTED_TYPES[wrapper]
    text = text_model(config, "text_config", model_type=text_type)
    section = tower_section(config, "vision_config")
    tower = vision_tower(section, vision_type) if section else None
    if tower is None:
        config.ignore("downsample_factor", "scale_factor")
        return text
    folded = tower.hidden_size * config.integer("downsample_factor", "scale_factor", default=2) ** 2
    return with_towers(text, tower.parameters + _projector(config, wrapper, folded, text.hidden_size))


def _projector(config: ConfigReader, wrapper: str, folded: int, text_hidden: int) -> int:
    """Parameters from ``folded`` features per patch to the language model's width."""
    if wrapper in ("idefics3", "smolvlm"):
        return linear(folded, text_hidden)
    if wrapper == "lfm2_vl":
        hidden = config.integer("projector_hidden_size", default=2560)
        norm = layer_norm(folded) if config.flag("projector_use_layernorm", default=True) else 0
        return norm + two_linears(folded, hidden, text_hidden, config.flag("projector_bias", default=True))
    default = 36864 if wrapper == "cohere2_vision" else text_hidden
    hidden = config.integer("alignment_intermediate_size", default=default)
    norm = layer_norm(folded) if wrapper == "aya_vision" else 0
    return norm + linear(folded, hidden, bias=True) + linear(hidden // 2, text_hidden, bias=True)


FAMILY = Family(
    name="pixel_shuffle_vl",
    model_types=tuple(NESTED_TYPES),
    architectures=(
        "AyaVisionForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
        "Idefics3ForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
        "Lfm2VlForConditionalGeneration",
    ),
    read=read,
    neutral_keys=frozenset(
        """
        image_token_id image_token_index image_seq_len adapter_layer_norm_eps vision_feature_layer
        vision_feature_select_strategy max_splits_per_img tokenizer_name projector_hidden_act do_image_splitting
        encoder_patch_size max_image_tokens min_image_tokens max_num_patches max_pixels_tolerance max_tiles min_tiles
        tile_size use_image_special_tokens use_thumbnail alignment_activation_fn alignment_intermediate_size
        projector_hidden_size projector_use_layernorm projector_bias tie_embedding
        """.split()
    ),
)
