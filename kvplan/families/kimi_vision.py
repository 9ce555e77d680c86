"""Kimi with vision (MoonViT): Kimi-VL, Kimi K2.5 and Kimi K3.

Shapes: transformers 5.23, ``models/kimi_k25``; Kimi-VL's modeling_kimi_vl.py has the same layers.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import side, stated_size, text_model, tower_section, with_towers
from kvplan.core.towers import EncoderShape, convolution, layer_norm, two_linears

NESTED_TEXT = {"kimi_vl": "deepseek_v3", "kimi_k25": "kimi_k2", "kimi_k3": "kimi_linear"}
"""What a nested text config is that does not say so."""


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of MoonViT and projector."""
    text = text_model(config, "text_config", model_type=NESTED_TEXT[config.text("model_type")])
    section = tower_section(config, "vision_config")
    return text if section is None else with_towers(text, _moonvit(section, text.hidden_size))


def _moonvit(section: ConfigReader, text_hidden: int) -> int:
    """Learned positions on a grid, plain layers, one last norm; the projector folds ``merge_kernel_size`` patches.

    Kimi K3 drops biases and takes RMS norms (``linear_bias``, ``attn_bias``, ``norm_type`` of its section).
    """
    hidden = stated_size(section, "vt_hidden_size", "hidden_size", default=1152)
    linear_bias = section.flag("linear_bias", default=True)
    attention_bias = section.flag("attn_bias", default=True)
    norm_bias = section.text("norm_type", default="layernorm") != "rmsnorm"
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "vt_num_hidden_layers", "num_hidden_layers", default=27),
        intermediate_size=stated_size(section, "vt_intermediate_size", "intermediate_size", default=4304),
        attention_width=section.optional_integer("qkv_hidden_size"),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=linear_bias,
        norm_bias=norm_bias,
    )
    height = section.integer("init_pos_emb_height", "pos_emb_height", default=64)
    width = section.integer("init_pos_emb_width", "pos_emb_width", default=64)
    merge_height, merge_width = section.integers("merge_kernel_size", minimum=1) or [2, 2]
    folded = hidden * merge_height * merge_width
    norms = 2 * (layer_norm(hidden) if norm_bias else hidden)  # after the layers and before the projector
    bias = section.flag("patch_embed_proj_bias", default=True)
    patches = convolution(3, hidden, side(section, "patch_size", 14) ** 2, bias)
    projector = two_linears(folded, folded, text_hidden, linear_bias)
    return patches + height * width * hidden + encoder.parameters() + norms + projector


FAMILY = Family(
    name="kimi_vision",
    model_types=tuple(NESTED_TEXT),
    architectures=("KimiVLForConditionalGeneration", "KimiK25ForConditionalGeneration"),
    read=read,
    neutral_keys=frozenset(
        """
        ignore_index media_placeholder_token_id image_token_index image_placeholder video_placeholder
        use_unified_vision_chunk
        """.split()
    ),
)
