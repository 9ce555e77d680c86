"""Qwen's omni models: Qwen2.5-Omni and Qwen3-Omni. Counted is the thinker, which reads, sees, hears and writes text.

The talker and the vocoder that turn its words into speech are separate models with caches of their own; engines
serve the thinker alone. Shapes: transformers 5.23, ``models/{qwen2_5_omni,qwen3_omni_moe}``.
"""

from __future__ import annotations

from kvplan.core.audio_towers import whisper_convolutions, whisper_layers, whisper_width
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import stated_size, text_model, tower_section, with_towers
from kvplan.core.qwen_vision import qwen2_5_vision, qwen3_vision
from kvplan.core.towers import convolution, layer_norm

CONVOLUTION_HALVINGS = 8
"""Three convolutions of stride 2 shrink the mel bins eightfold."""


def read(config: ConfigReader) -> Architecture:
    """The thinker's language model with its vision and audio towers; the file may hold the thinker alone."""
    thinker = config.section("thinker_config") or config
    third = config.text("model_type").startswith("qwen3")
    if tower_section_if_any(config, "talker_config") or tower_section_if_any(config, "token2wav_config"):
        config.note("the talker and the vocoder are not counted: engines serve the thinker")
    tower_section_if_any(config, "code2wav_config")
    vision = tower_section(thinker, "vision_config")
    audio = tower_section(thinker, "audio_config")
    text_type = "qwen3_moe" if third else "qwen2"
    text = text_model(thinker, "text_config", model_type=text_type, reads_as=text_type)
    towers = 0
    if vision:
        towers += qwen3_vision(vision) if third else qwen2_5_vision(vision)
    if audio:
        towers += _audio_of_three(audio) if third else _audio_of_two(audio)
    return with_towers(text, towers)


def tower_section_if_any(config: ConfigReader, name: str) -> bool:
    """Whether a section is there; every key of it is understood."""
    return config.has(name) and tower_section(config, name) is not None


def _audio_of_two(section: ConfigReader) -> int:
    """Whisper's layers with computed positions; begin and end vectors; one projection."""
    width = whisper_width(section)
    outputs = stated_size(section, "output_dim", default=3584)
    layers = whisper_convolutions(section) + whisper_layers(section) + layer_norm(width)
    return layers + 2 * outputs + linear(width, outputs, bias=True)


def _audio_of_three(section: ConfigReader) -> int:
    """Three two-dimensional convolutions before Whisper's layers, two projections after them."""
    width = whisper_width(section)
    channels = stated_size(section, "downsample_hidden_size", default=480)
    bins = section.integer("num_mel_bins", default=128)
    folded = channels * -(-bins // CONVOLUTION_HALVINGS)
    convolutions = convolution(1, channels, 9) + 2 * convolution(channels, channels, 9) + linear(folded, width)
    outputs = stated_size(section, "output_dim", default=3584)
    projections = linear(width, width, bias=True) + linear(width, outputs, bias=True)
    return convolutions + whisper_layers(section, key_bias=True) + layer_norm(width) + projections


FAMILY = Family(
    name="qwen_omni",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker", "qwen3_omni_moe", "qwen3_omni_moe_thinker"),
    architectures=("Qwen2_5OmniModel", "Qwen3OmniMoeForConditionalGeneration"),
    read=read,
    neutral_keys=frozenset(
        """
        enable_audio_output enable_talker audio_token_index audio_token_id image_token_index image_token_id
        video_token_index video_token_id vision_start_token_id vision_end_token_id vision_token_id
        audio_start_token_id audio_end_token_id position_id_per_seconds seconds_per_chunk user_token_id
        ignore_index im_end_token_id im_start_token_id tts_bos_token_id tts_eos_token_id tts_pad_token_id
        system_token_id assistant_token_id
        """.split()
    ),
)
