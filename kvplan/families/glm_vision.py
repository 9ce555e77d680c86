"""GLM with vision: GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR.

Shapes: transformers 5.23, ``models/{glm4v,glm4v_moe,glm46v,glm_ocr}``.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import gated_mlp, linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import side, stated_size, text_model, tower_section, with_towers
from kvplan.core.towers import EncoderShape, convolution, layer_norm

TEXT_TYPES = {"glm4v": "glm4", "glm46v": "glm4", "glm4v_moe": "glm4v_moe_text", "glm_ocr": "glm4"}
"""What the language model reads as, by wrapper; its keys may stand at the top level."""


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of its vision tower."""
    wrapper = config.text("model_type")
    section = tower_section(config, "vision_config")
    text_type = TEXT_TYPES[wrapper]
    nested = config.section("text_config")
    num_draft = 0
    if wrapper == "glm_ocr":
        num_draft = (nested or config).integer("num_nextn_predict_layers", default=0, minimum=0)
    if nested is None:
        text = config.text_model_here(text_type)
    else:
        text = text_model(config, "text_config", model_type=text_type, reads_as=text_type)
    text = replace(text, draft_layers=text.draft_layers + num_draft * text.layers[-1:])
    if section is None:
        return text
    return with_towers(text, _ocr_vision(section) if wrapper == "glm_ocr" else _glm4v_vision(section))


def _glm4v_vision(section: ConfigReader) -> int:
    """Layers without biases whose feed-forward width is the output's; learned positions; a wide merger."""
    hidden = stated_size(section, "hidden_size", default=1536)
    outputs = stated_size(section, "out_hidden_size", default=4096)
    positions = (side(section, "image_size", 336) // side(section, "patch_size", 14)) ** 2 * hidden
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "depth", default=24),
        intermediate_size=outputs,
        qkv_bias=section.flag("attention_bias", default=False),
        output_bias=False,
        mlp_bias=False,
        gated=True,
        norm_bias=False,
    )
    norms = 2 * hidden  # after the patches and after the layers
    wide = stated_size(section, "intermediate_size", default=13696)
    return positions + norms + encoder.parameters() + _around(section, hidden, outputs, wide)


def _ocr_vision(section: ConfigReader) -> int:
    """GLM-OCR: layers with biases and query and key norms, no learned positions."""
    hidden = stated_size(section, "hidden_size", default=1024)
    outputs = stated_size(section, "out_hidden_size", default=1536)
    bias = section.flag("attention_bias", default=True)
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "depth", default=24),
        intermediate_size=stated_size(section, "intermediate_size", default=4096),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        gated=True,
        norm_bias=False,
        extra=2 * (hidden // section.integer("num_heads", default=16)),
    )
    wide = outputs * section.integer("in_channels", default=3)
    return hidden + encoder.parameters() + _around(section, hidden, outputs, wide)


def _around(section: ConfigReader, hidden: int, outputs: int, wide: int) -> int:
    """Patch embedding, downsampling convolution and the merger's gated block of width ``wide``."""
    frames = section.integer("temporal_patch_size", default=2)
    pixels = frames * side(section, "patch_size", 14) ** 2
    patches = convolution(section.integer("in_channels", default=3), hidden, pixels)
    downsample = convolution(hidden, outputs, section.integer("spatial_merge_size", default=2) ** 2)
    return patches + downsample + linear(outputs, outputs) + layer_norm(outputs) + gated_mlp(outputs, wide)


FAMILY = Family(
    name="glm_vision",
    model_types=tuple(TEXT_TYPES),
    architectures=("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration"),
    read=read,
    neutral_keys=frozenset(
        """
        image_start_token_id image_end_token_id video_start_token_id video_end_token_id image_token_id video_token_id
        """.split()
    ),
)
