"""ERNIE 4.5 VL: an ERNIE 4.5 mixture of experts with further experts that only image and video tokens use.

The published files hold the language model's keys at the top level and give pairs where text and vision differ
(``moe_num_experts: [64, 64]``); transformers nests them under ``text_config``. The language model reads as
``ernie4_5_moe``. Shapes: transformers 5.23, ``models/ernie4_5_vl_moe``; baidu's modeling_ernie4_5_vl.py.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import gated_mlp, linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import side, stated_size, tower_section, with_towers
from kvplan.core.towers import EncoderShape, layer_norm, two_linears

PAIRED_KEYS = ("moe_num_experts", "moe_intermediate_size", "moe_layer_start_index", "moe_layer_end_index")
"""Keys that hold one number, or a pair of one for text and one for vision."""

BAIDU_DEFAULTS = {"moe_num_shared_experts": 0, "moe_layer_end_index": -1, "moe_layer_interval": 1}
"""What Baidu's configuration class takes for keys that a file with all keys at the top level leaves out."""

TRANSFORMERS_DEFAULTS = {
    "moe_num_shared_experts": 2,
    "moe_num_experts": 64,
    "moe_intermediate_size": [1536, 512],
    "moe_layer_start_index": 1,
    "moe_layer_end_index": -1,
    "moe_layer_interval": 1,
}
"""What transformers 5.23's class takes for keys that a nested config leaves out."""


def read(config: ConfigReader) -> Architecture:
    """The language model with its vision experts and the parameters of tower and resampler."""
    section = tower_section(config, "vision_config")
    spatial = config.integer("spatial_conv_size", default=2)
    temporal = config.integer("temporal_conv_size", default=2)
    config.ignore("moe_multimodal_dispatch_use_allgather", "moe_capacity", "moe_gate", "pixel_hidden_size")
    nested = config.section("text_config")
    keys = nested or config
    keys.complete(TRANSFORMERS_DEFAULTS if nested else BAIDU_DEFAULTS)
    pairs = {name: _pair(keys, name) for name in PAIRED_KEYS}
    text = keys.text_model_here("ernie4_5_moe", {name: pair[0] for name, pair in pairs.items()})
    text = _with_vision_experts(keys, text, {name: pair[1] for name, pair in pairs.items()})
    if section is None:
        return text
    return with_towers(text, _vision(section) + _resampler(section, spatial, temporal, text.hidden_size))


def _pair(config: ConfigReader, name: str) -> tuple[int, int]:
    """The number for text and the number for vision."""
    if not isinstance(config.value(name), list):
        number = config.integer(name, minimum=-1)
        return number, number
    numbers = config.integers(name) or []
    if len(numbers) != 2:
        config.wrong(name, f"must hold one number for text and one for vision, not {numbers}")
    return numbers[0], numbers[1]


def _with_vision_experts(keys: ConfigReader, text: Architecture, vision: dict[str, int]) -> Architecture:
    """The language model with the experts and routers that image and video tokens use; no text token uses them."""
    if text.parameters is None:
        return text
    types = keys.texts("mlp_layer_types")
    first, last, every = (
        vision["moe_layer_start_index"],
        vision["moe_layer_end_index"],
        keys.integer("moe_layer_interval"),
    )
    end = text.num_layers if last < 0 else min(last + 1, text.num_layers)
    sparse = types.count("sparse") if types else sum((layer + 1) % every == 0 for layer in range(first, end))
    experts = vision["moe_num_experts"]
    router = linear(text.hidden_size, experts) + experts  # with the bias that balances the experts
    parameters = replace(
        text.parameters,
        experts=text.parameters.experts
        + sparse * experts * gated_mlp(text.hidden_size, vision["moe_intermediate_size"]),
        routers=text.parameters.routers + sparse * router,
    )
    return replace(text, parameters=parameters)


def _vision(section: ConfigReader) -> int:
    """Qwen2-VL's layers over flattened patches, and one last norm."""
    hidden = stated_size(section, "hidden_size", "embed_dim", default=1280)
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "depth", default=32),
        intermediate_size=section.integer(
            "intermediate_size", default=int(hidden * section.number("mlp_ratio", default=4))
        ),
    )
    pixels = section.integer("in_channels", "in_chans", default=3) * side(section, "patch_size", 14) ** 2
    return linear(pixels, hidden) + encoder.parameters() + layer_norm(hidden)


def _resampler(section: ConfigReader, spatial: int, temporal: int, text_hidden: int) -> int:
    """Folds ``spatial``² patches, then ``temporal`` frames, and projects to the language model's width."""
    folded = section.integer("hidden_size", "embed_dim", default=1280) * spatial**2
    fold_space = two_linears(folded, folded, folded) + layer_norm(folded)
    fold_time = two_linears(folded * temporal, folded, folded) + layer_norm(folded)
    return fold_space + fold_time + linear(folded, text_hidden, bias=True) + text_hidden


FAMILY = Family(
    name="ernie_vl",
    model_types=("ernie4_5_moe_vl", "ernie4_5_vl_moe"),
    architectures=("Ernie4_5_VLMoeForConditionalGeneration",),
    read=read,
    neutral_keys=frozenset(
        """
        im_patch_id image_token_id image_start_token_id image_end_token_id video_token_id video_start_token_id
        video_end_token_id
        """.split()
    ),
)
