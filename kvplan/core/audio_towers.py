"""Reads the audio towers that several families share (Whisper's encoder and its kin) and counts their parameters.

Shapes and defaults: transformers 5.23, ``models/{whisper,qwen2_audio,voxtral,qwen2_5_omni}``.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.multimodal import stated_size
from kvplan.core.towers import EncoderShape, convolution, layer_norm


def whisper_layers(section: ConfigReader, key_bias: bool = False) -> int:
    """Whisper's encoder layers; its key projection has no bias unless the model's own code adds one."""
    return EncoderShape(
        hidden_size=whisper_width(section),
        num_layers=stated_size(section, "encoder_layers", "num_hidden_layers", default=32),
        intermediate_size=stated_size(section, "encoder_ffn_dim", "intermediate_size", default=5120),
        key_bias=key_bias,
    ).parameters()


def whisper_convolutions(section: ConfigReader) -> int:
    """Two convolutions over three positions, from mel bins to the encoder's width."""
    width = whisper_width(section)
    return convolution(section.integer("num_mel_bins", default=128), width, 3) + convolution(width, width, 3)


def whisper_encoder(section: ConfigReader) -> int:
    """Convolutions, 1500 stored positions, layers and one last norm."""
    width = whisper_width(section)
    positions = section.integer("max_source_positions", default=1500) * width
    return whisper_convolutions(section) + positions + whisper_layers(section) + layer_norm(width)


def whisper_width(section: ConfigReader) -> int:
    """Width of the encoder."""
    return stated_size(section, "d_model", "hidden_size", default=1280)
