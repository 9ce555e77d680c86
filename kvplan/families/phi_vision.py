"""Phi with vision: Phi-3-Vision and Phi-3.5-Vision (CLIP beside a Phi-3), Phi-4-multimodal (Phi-4-mini).

Both hold the language model's keys at the top level. Shapes: microsoft/Phi-3.5-vision-instruct's
modeling_phi3_v.py and image_embedding_phi3_v.py.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import tower_section, with_towers
from kvplan.core.towers import EncoderShape, convolution, layer_norm, two_linears

FOLDED_PATCHES = 4
"""Phi-3-Vision folds 2 x 2 patches before the projector."""


def read(config: ConfigReader) -> Architecture:
    """The language model at the top level with the parameters of CLIP and projector."""
    config.ignore("embd_layer", "audio_processor", "speech_lora", "vision_lora", "audio_config", "vision_config")
    if config.text("model_type") != "phi3_v":
        config.value("img_processor")
        config.note("the vision and audio towers, projectors and adapters (about 1.7 B parameters) are not counted")
        return config.text_model_here("phi3")
    section = tower_section(config, "img_processor")
    text = config.text_model_here("phi3")
    if section is None:
        return text
    if section.text("name", default="") != "clip_vision_model":
        config.note("the vision tower is not CLIP: its parameters are not counted")
        return text
    folded = section.integer("image_dim_out", default=1024) * FOLDED_PATCHES
    separators = 2 * folded
    return with_towers(text, _clip_large_336() + two_linears(folded, text.hidden_size, text.hidden_size) + separators)


def _clip_large_336() -> int:
    """CLIP ViT-L/14 at 336 pixels, the only tower that the remote code builds; the config holds none of its sizes."""
    encoder = EncoderShape(hidden_size=1024, num_layers=24, intermediate_size=4096)
    positions = (336 // 14) ** 2 + 1
    return (
        1024 + convolution(3, 1024, 14**2, bias=False) + positions * 1024 + encoder.parameters() + 2 * layer_norm(1024)
    )


FAMILY = Family(
    name="phi_vision",
    model_types=("phi3_v", "phi4mm", "phi4_multimodal"),
    architectures=("Phi3VForCausalLM", "Phi4MMForCausalLM", "Phi4MultimodalForCausalLM"),
    read=read,
)
