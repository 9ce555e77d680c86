"""Gemma with eyes and ears: PaliGemma, Gemma 3, Gemma 3n, Gemma 4 and Gemma 4 unified.

Shapes: transformers 5.23, ``models/{paligemma,gemma3,gemma3n,gemma4,gemma4_unified}``.
"""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear, plain_mlp
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import side, stated_size, text_model, tower_section, with_towers
from kvplan.core.towers import EncoderShape, layer_norm
from kvplan.core.vision_towers import vision_tower

NESTED_TEXT = {
    "paligemma": "gemma",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
}
"""What a nested text config is that does not say so."""


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of its towers."""
    wrapper = config.text("model_type")
    text = text_model(config, "text_config", model_type=NESTED_TEXT[wrapper])
    vision = tower_section(config, "vision_config")
    towers = VISION[wrapper](vision, text.hidden_size) if vision else 0
    if config.has("audio_config"):
        audio = tower_section(config, "audio_config")
        towers += AUDIO[wrapper](audio, text.hidden_size) if audio and wrapper in AUDIO else 0
    return with_towers(text, towers)


def _paligemma_vision(section: ConfigReader, text_hidden: int) -> int:
    tower = vision_tower(section, "siglip_vision_model")
    return 0 if tower is None else tower.parameters + linear(tower.hidden_size, text_hidden, bias=True)


def _gemma3_vision(section: ConfigReader, text_hidden: int) -> int:
    tower = vision_tower(section, "siglip_vision_model")
    return 0 if tower is None else tower.parameters + linear(tower.hidden_size, text_hidden) + tower.hidden_size


def _gemma3n_vision(section: ConfigReader, text_hidden: int) -> int:
    """MobileNetV5 is a convolutional network of the timm library; the config holds none of its sizes."""
    section.note("the vision tower (MobileNetV5, about 0.3 B parameters) is not counted")
    return _gemma3n_embedder(section, section.integer("hidden_size", default=2048), text_hidden)


def _gemma3n_audio(section: ConfigReader, text_hidden: int) -> int:
    hidden = stated_size(section, "hidden_size", default=1536)
    tower = _conformer(
        section,
        hidden,
        num_layers=stated_size(section, "conf_num_hidden_layers", default=12),
        num_heads=section.integer("conf_num_attention_heads", default=8),
        kernel=section.integer("conf_conv_kernel_size", default=5),
        channels=section.integers("sscp_conv_channel_size") or [128, 32],
        features=section.integer("input_feat_size", default=128),
    )
    return tower + _gemma3n_embedder(section, hidden, text_hidden)


def _gemma3n_embedder(section: ConfigReader, hidden: int, text_hidden: int) -> int:
    """An embedding of the tower's own tokens, two norms and the projection."""
    return section.integer("vocab_size", default=128) * hidden + 2 * hidden + linear(hidden, text_hidden)


def _gemma4_vision(section: ConfigReader, text_hidden: int) -> int:
    """Gated layers with four RMS norms and query and key norms; a position table for each of two axes."""
    hidden = stated_size(section, "hidden_size", default=768)
    heads = stated_size(section, "num_attention_heads", default=12)
    head_dim = section.integer("head_dim", default=hidden // heads)
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "num_hidden_layers", default=16),
        intermediate_size=stated_size(section, "intermediate_size", default=3072),
        attention_width=heads * head_dim,
        qkv_bias=section.flag("attention_bias", default=False),
        output_bias=section.flag("attention_bias", default=False),
        mlp_bias=False,
        gated=True,
        norm_bias=False,
        num_norms=4,
        extra=2 * head_dim,
    )
    positions = 2 * stated_size(section, "position_embedding_size", default=10240) * hidden
    patches = linear(3 * side(section, "patch_size", 16) ** 2, hidden)
    return patches + positions + encoder.parameters() + linear(hidden, text_hidden)


def _gemma4_audio(section: ConfigReader, text_hidden: int) -> int:
    hidden = stated_size(section, "hidden_size", default=1024)
    outputs = stated_size(section, "output_proj_dims", default=1536)
    tower = _conformer(
        section,
        hidden,
        num_layers=stated_size(section, "num_hidden_layers", default=12),
        num_heads=section.integer("num_attention_heads", default=8),
        kernel=section.integer("conv_kernel_size", default=5),
        channels=section.integers("subsampling_conv_channels") or [128, 32],
        features=128,
    )
    return tower + linear(hidden, outputs, bias=True) + linear(outputs, text_hidden)


def _conformer(
    section: ConfigReader, hidden: int, num_layers: int, num_heads: int, kernel: int, channels: list[int], features: int
) -> int:
    """The universal speech model's encoder: two 3x3 convolutions, then conformer layers without biases.

    A layer: two feed-forward blocks of four times the width with two norms each; query, key, value, relative
    position and output projections with a scale per element of a head and two norms; a gated depthwise
    convolution with two norms; one last norm. ``features`` mel bins shrink fourfold in the convolutions.
    """
    if len(channels) != 2:
        section.wrong("subsampling_conv_channels", f"must hold two numbers, not {channels}")
    first, second = channels
    subsampling = 9 * first + first + 9 * first * second + second + linear(second * features // 4, hidden)
    feed_forward = 2 * (plain_mlp(hidden, 4 * hidden) + 2 * hidden)
    attention = 5 * linear(hidden, hidden) + hidden // num_heads + 2 * hidden
    gated_convolution = linear(hidden, 2 * hidden) + linear(hidden, hidden) + kernel * hidden + 2 * hidden
    return subsampling + num_layers * (feed_forward + attention + gated_convolution + hidden)


def _unified_vision(section: ConfigReader, text_hidden: int) -> int:
    """No tower: patches of raw pixels go through one dense layer between norms."""
    width = stated_size(section, "mm_embed_dim", default=3840)
    pixels = 3 * stated_size(section, "model_patch_size", default=48) ** 2
    positions = 2 * stated_size(section, "mm_posemb_size", default=1120) * width
    dense = layer_norm(pixels) + linear(pixels, width, bias=True) + 2 * layer_norm(width)
    return positions + dense + linear(section.integer("output_proj_dims", default=width), text_hidden)


def _unified_audio(section: ConfigReader, text_hidden: int) -> int:
    """No tower: raw samples go through one projection."""
    return linear(stated_size(section, "output_proj_dims", "audio_embed_dim", default=640), text_hidden)


Count = Callable[[ConfigReader, int], int]

VISION: dict[str, Count] = {
    "paligemma": _paligemma_vision,
    "gemma3": _gemma3_vision,
    "gemma3n": _gemma3n_vision,
    "gemma4": _gemma4_vision,
    "gemma4_unified": _unified_vision,
}
"""Vision tower and projector, by wrapper."""

AUDIO: dict[str, Count] = {
    "gemma3n": _gemma3n_audio,
    "gemma4": _gemma4_audio,
    "gemma4_unified": _unified_audio,
}
"""Audio tower and projector, by wrapper."""

FAMILY = Family(
    name="gemma_multimodal",
    model_types=tuple(NESTED_TEXT),
    architectures=("PaliGemmaForConditionalGeneration",),
    read=read,
    neutral_keys=frozenset(
        """
        image_token_index image_token_id boi_token_index boi_token_id eoi_token_index eoi_token_id audio_token_id
        audio_token_index boa_token_id boa_token_index eoa_token_id eoa_token_index video_token_id mm_tokens_per_image
        vision_soft_tokens_per_image audio_soft_tokens_per_image projection_dim ignore_index hidden_size
        num_image_tokens
        """.split()
    ),
)
