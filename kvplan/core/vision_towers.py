"""Reads the vision towers that several families share (CLIP, SigLIP, SigLIP 2, Pixtral) and counts their parameters.

Sizes that a file leaves out are the defaults of transformers 5.23's config classes, as engines complete them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvplan.core.config_reader import ConfigReader
from kvplan.core.frozen import dataclass
from kvplan.core.multimodal import side, stated_size
from kvplan.core.towers import EncoderShape, convolution, layer_norm, pooling_head


def clip_parameters(section: ConfigReader) -> int:
    """CLIP's vision model: class token, patch embedding without bias, norms before and after the layers."""
    hidden = stated_size(section, "hidden_size", default=768)
    patch = side(section, "patch_size", 32)
    patches = (side(section, "image_size", 224) // patch) ** 2
    channels = section.integer("num_channels", default=3)
    return (
        hidden
        + convolution(channels, hidden, patch**2, bias=False)
        + (patches + 1) * hidden
        + 2 * layer_norm(hidden)
        + _encoder(section, hidden, intermediate_size=3072, num_layers=12)
    )


def siglip_parameters(section: ConfigReader) -> int:
    """SigLIP's vision model with its pooling head, which is there unless ``vision_use_head`` is false."""
    hidden = stated_size(section, "hidden_size", default=768)
    patches = (side(section, "image_size", 224) // side(section, "patch_size", 16)) ** 2
    return _siglip_body(section, hidden, patches, patch_size=16, intermediate_size=3072) + _head(section, hidden)


def siglip2_parameters(section: ConfigReader) -> int:
    """SigLIP 2 with images of any shape: ``num_patches`` learned positions, resized to the image."""
    hidden = stated_size(section, "hidden_size", default=768)
    positions = stated_size(section, "num_patches", default=256)
    return _siglip_body(section, hidden, positions, patch_size=16, intermediate_size=3072) + _head(section, hidden)


def idefics_vision_parameters(section: ConfigReader) -> int:
    """The SigLIP without head of Idefics 3 and SmolVLM."""
    hidden = stated_size(section, "hidden_size", default=1152)
    patches = (side(section, "image_size", 224) // side(section, "patch_size", 32)) ** 2
    return _siglip_body(section, hidden, patches, patch_size=32, intermediate_size=3072)


def pixtral_parameters(section: ConfigReader) -> int:
    """Pixtral's vision model: rotary positions, RMS norms, gated feed-forward blocks, no biases."""
    hidden = stated_size(section, "hidden_size", default=1024)
    heads = section.integer("num_attention_heads", default=16)
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "num_hidden_layers", default=24),
        intermediate_size=stated_size(section, "intermediate_size", default=4096),
        attention_width=heads * section.integer("head_dim", default=hidden // heads),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        gated=True,
        norm_bias=False,
    )
    channels = section.integer("num_channels", default=3)
    patch = side(section, "patch_size", 16)
    return convolution(channels, hidden, patch**2, bias=False) + hidden + encoder.parameters()


@dataclass(frozen=True, slots=True)
class VisionTower:
    """A counted tower: its parameters and the width of the features that it hands to the projector."""

    parameters: int
    hidden_size: int


VISION_TOWERS: Mapping[str, tuple[Callable[[ConfigReader], int], int]] = {
    "clip_vision_model": (clip_parameters, 768),
    "siglip_vision_model": (siglip_parameters, 768),
    "siglip2_vision_model": (siglip2_parameters, 768),
    "idefics3": (idefics_vision_parameters, 1152),
    "idefics3_vision": (idefics_vision_parameters, 1152),
    "smolvlm": (idefics_vision_parameters, 1152),
    "smolvlm_vision": (idefics_vision_parameters, 1152),
    "pixtral": (pixtral_parameters, 1024),
}
"""Shared towers by the ``model_type`` of their section: how they count, and their class's default width."""


def vision_tower(section: ConfigReader, model_type: str) -> VisionTower | None:
    """The tower of a section, read as ``model_type`` where it does not say so itself; None with a note if unknown."""
    kind = section.text("model_type", default=model_type)
    if kind not in VISION_TOWERS:
        section.note(f"the vision tower {kind!r} is not known: its parameters are not counted")
        return None
    count, width = VISION_TOWERS[kind]
    return VisionTower(count(section), section.integer("hidden_size", default=width))


def _head(section: ConfigReader, hidden: int) -> int:
    if not section.flag("vision_use_head", default=True):
        return 0
    return pooling_head(hidden, section.integer("intermediate_size", default=3072))


def _siglip_body(section: ConfigReader, hidden: int, positions: int, patch_size: int, intermediate_size: int) -> int:
    patch = side(section, "patch_size", patch_size)
    return (
        convolution(section.integer("num_channels", default=3), hidden, patch**2)
        + positions * hidden
        + layer_norm(hidden)
        + _encoder(section, hidden, intermediate_size, num_layers=12)
    )


def _encoder(section: ConfigReader, hidden: int, intermediate_size: int, num_layers: int) -> int:
    return EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "num_hidden_layers", default=num_layers),
        intermediate_size=stated_size(section, "intermediate_size", default=intermediate_size),
    ).parameters()
