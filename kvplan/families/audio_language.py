"""Language models that hear: Qwen2-Audio, Voxtral, Ultravox and Granite Speech.

Shapes: transformers 5.23, ``models/{qwen2_audio,voxtral,granite_speech}``; fixie-ai's ultravox_model.py.
"""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.audio_towers import whisper_encoder, whisper_width
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import stated_size, text_model, tower_section, with_towers
from kvplan.core.towers import two_linears

NESTED_TEXT = {
    "qwen2_audio": "qwen2",
    "voxtral": "llama",
    "ultravox": "llama",
    "granite_speech": "granite",
}
"""What a nested text config is that does not say so."""


def read(config: ConfigReader) -> Architecture:
    """The language model of the file with the parameters of its audio tower and projector."""
    wrapper = config.text("model_type")
    text = text_model(config, "text_config", model_type=NESTED_TEXT[wrapper])
    config.ignore(
        "audio_model_id", "text_model_id", "has_lora_adapter", "audio_model_lora_config", "text_model_lora_config"
    )
    if wrapper == "granite_speech":
        tower_section(config, "encoder_config")
        tower_section(config, "projector_config")
        config.note("the speech encoder, its projector and the adapter are not counted")
        return text
    section = tower_section(config, "audio_config")
    return text if section is None else with_towers(text, TOWERS[wrapper](config, section, text.hidden_size))


def _qwen2_audio(config: ConfigReader, section: ConfigReader, text_hidden: int) -> int:
    return whisper_encoder(section) + linear(whisper_width(section), text_hidden, bias=True)


def _voxtral(config: ConfigReader, section: ConfigReader, text_hidden: int) -> int:
    """The projector takes ``intermediate_size`` features: four frames side by side."""
    folded = stated_size(section, "intermediate_size", default=5120)
    return whisper_encoder(section) + two_linears(folded, text_hidden, text_hidden, bias=False)


def _ultravox(config: ConfigReader, section: ConfigReader, text_hidden: int) -> int:
    """``stack_factor`` frames side by side, a norm, SwiGLU of ``hidden_size``, one more norm."""
    stacked = whisper_width(section) * config.integer("stack_factor", default=8)
    wide = config.integer("hidden_size", default=4096)
    middle = config.flag("projector_ln_mid", default=False)
    last_norm = wide // 2 if middle else text_hidden
    return whisper_encoder(section) + stacked + linear(stacked, wide) + linear(wide // 2, text_hidden) + last_norm


TOWERS: dict[str, Callable[[ConfigReader, ConfigReader, int], int]] = {
    "qwen2_audio": _qwen2_audio,
    "voxtral": _voxtral,
    "ultravox": _ultravox,
}
"""Audio tower and projector, by wrapper."""

FAMILY = Family(
    name="audio_language",
    model_types=tuple(NESTED_TEXT),
    architectures=("UltravoxModel", "VoxtralForConditionalGeneration", "Qwen2AudioForConditionalGeneration"),
    read=read,
    neutral_keys=frozenset(
        """
        audio_token_index audio_token_id ignore_index projector_hidden_act projector_act norm_init stack_factor
        projector_ln_mid hidden_size downsample_rate window_size audio_latency_block_size custom_pipelines
        """.split()
    ),
)
