"""Qwen's vision-language models: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 and their mixtures of experts.

Qwen2-VL and Qwen2.5-VL publish the language model's keys at the top level, later models nest them.
Shapes: transformers 5.23, ``models/{qwen2_vl,qwen2_5_vl,qwen3_vl,qwen3_5}``.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import text_model, tower_section, with_towers
from kvplan.core.qwen_vision import qwen2_5_vision, qwen2_vision, qwen3_vision

TOWERS = {
    "qwen2_vl": qwen2_vision,
    "qwen2_5_vl": qwen2_5_vision,
    "qwen3_vl": qwen3_vision,
    "qwen3_vl_moe": qwen3_vision,
    "qwen3_5": qwen3_vision,
    "qwen3_5_moe": qwen3_vision,
}
"""The vision tower that each model has."""

TEXT_TYPES = {
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
"""What the language model reads as; a nested config has a type of its own name (``qwen3_vl_text``) for it."""


def read(config: ConfigReader) -> Architecture:
    """The language model, nested or at the top level, with the vision tower's parameters."""
    wrapper = config.text("model_type")
    section = tower_section(config, "vision_config")
    text_type = TEXT_TYPES[wrapper]
    if config.section("text_config") is None:
        text = config.text_model_here(text_type)
    else:
        text = text_model(config, "text_config", model_type=f"{wrapper}_text", reads_as=text_type)
    return text if section is None else with_towers(text, TOWERS[wrapper](section))


FAMILY = Family(
    name="qwen_vl",
    model_types=tuple(TOWERS),
    read=read,
    neutral_keys=frozenset(
        """
        image_token_id video_token_id vision_start_token_id vision_end_token_id vision_token_id
        language_model_only
        """.split()
    ),
)
