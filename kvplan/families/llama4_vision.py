"""Llama 4 with its vision tower (Scout, Maverick); the language model is the family of ``llama4_text``.

Shapes: transformers 5.23, ``models/llama4``.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import side, stated_size, text_model, tower_section, with_towers
from kvplan.core.towers import EncoderShape, layer_norm, two_linears


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of the vision tower."""
    text = text_model(config, "text_config", model_type="llama4_text")
    section = tower_section(config, "vision_config")
    if section is None:
        return text
    projector = linear(stated_size(section, "vision_output_dim", default=7680), text.hidden_size)
    return with_towers(text, _vision(section) + projector)


def _vision(section: ConfigReader) -> int:
    """Class token, learned positions, norms before and after the layers, and a pixel-shuffle adapter."""
    hidden = stated_size(section, "hidden_size", default=768)
    intermediate = stated_size(section, "intermediate_size", default=5632)
    patch = side(section, "patch_size", 14)
    patches = (side(section, "image_size", 448) // patch) ** 2
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "num_hidden_layers", default=34),
        intermediate_size=intermediate,
    )
    folded = stated_size(section, "projector_input_dim", default=4096)
    adapter = two_linears(intermediate, folded, stated_size(section, "projector_output_dim", default=4096), bias=False)
    pixels = section.integer("num_channels", default=3) * patch**2
    embeddings = hidden + (patches + 1) * hidden + linear(pixels, hidden)
    return embeddings + 2 * layer_norm(hidden) + encoder.parameters() + adapter


FAMILY = Family(
    name="llama4_vision",
    model_types=("llama4",),
    architectures=("Llama4ForConditionalGeneration",),
    read=read,
    neutral_keys=frozenset("image_token_index boi_token_index eoi_token_index".split()),
)
