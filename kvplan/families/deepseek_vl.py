"""DeepSeek-VL2 and DeepSeek-OCR: a DeepSeek language model (``language_config``) behind a SigLIP or SAM tower.

Shapes: deepseek-ai/DeepSeek-VL2's modeling_deepseek_vl_v2.py and siglip_vit.py.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import side, stated_size, text_model, tower_section, with_towers
from kvplan.core.towers import EncoderShape, convolution, layer_norm, pooling_head


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of tower and projector, where they are SigLIP's."""
    language = config.section("language_config")
    if language is not None:
        language.ignore("lm_head", "rm_head")  # whether it scores tokens: the parameters of the head, never the cache
    text = text_model(config, "language_config", model_type="deepseek_v2")
    section = tower_section(config, "vision_config")
    projector = tower_section(config, "projector_config")
    if section is None or projector is None:
        return text
    if not section.text("model_name", default="siglip").startswith("siglip"):
        config.note(f"the vision tower {section.text('model_name')!r} is not known: its parameters are not counted")
        return text
    if projector.text("projector_type", default="downsample_mlp_gelu") != "downsample_mlp_gelu":
        config.note("the projector is not known: its parameters are not counted")
        return with_towers(text, _siglip(section))
    return with_towers(text, _siglip(section) + _projector(section, projector, text.hidden_size))


def _siglip(section: ConfigReader) -> int:
    """timm's SigLIP with attention pooling; ``mlp_ratio`` sets the feed-forward width."""
    hidden = stated_size(section, "width", default=1152)
    patch = side(section, "patch_size", 14)
    intermediate = int(hidden * section.number("mlp_ratio", default=3.7362))
    encoder = EncoderShape(
        hidden_size=hidden, num_layers=stated_size(section, "layers", default=27), intermediate_size=intermediate
    )
    patches = (side(section, "image_size", 384) // patch) ** 2
    pooling = pooling_head(hidden, intermediate)
    return convolution(3, hidden, patch**2) + patches * hidden + encoder.parameters() + layer_norm(hidden) + pooling


def _projector(section: ConfigReader, projector: ConfigReader, text_hidden: int) -> int:
    """Folds 2 x 2 patches, then ``depth`` linear layers; two learned separators."""
    outputs = projector.integer("n_embed", default=2048)
    wide = outputs * projector.integer("mlp_ratio", default=1)
    inputs = projector.integer("input_dim", default=section.integer("width", default=1152))
    folded = inputs * projector.integer("downsample_ratio", default=2) ** 2
    between = max(0, projector.integer("depth", default=2) - 2)
    layers = (
        linear(folded, wide, bias=True) + between * linear(wide, wide, bias=True) + linear(wide, outputs, bias=True)
    )
    return layers + 2 * text_hidden


FAMILY = Family(
    name="deepseek_vl",
    model_types=("deepseek_vl_v2",),
    architectures=("DeepseekVLV2ForCausalLM", "DeepseekOCRForCausalLM"),
    read=read,
    neutral_keys=frozenset("global_view_pos tile_tag candidate_resolutions".split()),
)
