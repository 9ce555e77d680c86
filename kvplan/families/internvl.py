"""InternVL: an InternViT, a projector over folded patches, and any language model.

Read in both spellings: transformers' ``internvl`` (``text_config``) and the published remote code's
``internvl_chat`` (``llm_config``). Shapes: transformers 5.23, ``models/internvl``; OpenGVLab's modeling_intern_vit.py.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import side, stated_size, text_model, tower_section, with_towers
from kvplan.core.towers import EncoderShape, convolution, layer_norm


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of InternViT and projector."""
    text = text_model(config, "text_config", "llm_config", model_type="qwen2")
    section = tower_section(config, "vision_config")
    folded_patches = round(1 / config.number("downsample_ratio", default=0.5)) ** 2
    if section is None:
        return text
    folded = section.integer("hidden_size", default=1024) * folded_patches
    hidden = text.hidden_size
    projector = layer_norm(folded) + linear(folded, hidden, bias=True) + linear(hidden, hidden, bias=True)
    return with_towers(text, intern_vit(section) + projector)


def intern_vit(section: ConfigReader) -> int:
    """InternViT: class token, learned positions, two layer scales per layer, full-width query and key norms."""
    hidden = stated_size(section, "hidden_size", default=1024)
    patch = side(section, "patch_size", 14)
    patches = (side(section, "image_size", 448) // patch) ** 2
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "num_hidden_layers", default=24),
        intermediate_size=stated_size(section, "intermediate_size", default=4096),
        qkv_bias=section.flag("attention_bias", "qkv_bias", default=False),
        norm_bias=section.text("norm_type", default="layer_norm") == "layer_norm",
        extra=2 * hidden + (2 * hidden if section.flag("use_qk_norm", "qk_normalization", default=False) else 0),
    )
    final_norm = 0 if section.flag("use_mean_pooling", default=True) else layer_norm(hidden)
    channels = section.integer("num_channels", default=3)
    embeddings = hidden + (patches + 1) * hidden + convolution(channels, hidden, patch**2)
    return embeddings + encoder.parameters() + final_norm


FAMILY = Family(
    name="internvl",
    model_types=("internvl", "internvl_chat"),
    architectures=("InternVLForConditionalGeneration", "InternVLChatModel"),
    read=read,
    neutral_keys=frozenset(
        """
        image_token_id image_token_index image_seq_length projector_hidden_act vision_feature_layer
        vision_feature_select_strategy select_layer template ps_version dynamic_image_size force_image_size
        max_dynamic_patch min_dynamic_patch pad2square use_thumbnail use_backbone_lora use_llm_lora
        system_message output_attentions hidden_size
        """.split()
    ),
)
