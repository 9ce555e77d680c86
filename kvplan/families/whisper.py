"""Whisper (arXiv 2212.04356): speech in, text out. Every 30-second segment gives the encoder's fixed 1500 tokens.

Key names and shapes: transformers 5.23 ``models/whisper``. Key projections have no bias; positions of both stacks
are tables that count as parameters.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.encoder_decoder import decoder_layer, layer_norm, read_stack, require_decoder
from kvplan.core.family import Family
from kvplan.core.model import Architecture, Parameters
from kvplan.core.widths import Widths

_CONV_KERNEL = 3
"""Width of both convolutions in front of the encoder; the second halves the length."""


def _read(config: ConfigReader) -> Architecture:
    require_decoder(config)
    decoder = read_stack(config, "decoder", key_bias=False)
    hidden = decoder.hidden_size
    encoder_tokens = config.integer("max_source_positions")
    target_tokens = config.integer("max_target_positions")
    return Architecture(
        layers=decoder.num_layers * (decoder_layer(decoder.num_heads, hidden // decoder.num_heads),),
        hidden_size=hidden,
        num_heads=decoder.num_heads,
        max_context_tokens=target_tokens,
        encoder_tokens=encoder_tokens,
        parameters=Parameters(
            embedding=hidden * config.integer("vocab_size"),
            attention=2 * decoder.num_layers * decoder.attention,
            mlp=decoder.num_layers * decoder.mlp,
            norms=(3 * decoder.num_layers + 1) * layer_norm(hidden),
            towers=_encoder_parameters(config, encoder_tokens),
            other=hidden * target_tokens,
        ),
        widths=Widths(
            vocab_size=config.integer("vocab_size"),
            intermediate_size=decoder.ffn_size,
            gated=False,
            tied_embeddings=True,
        ),
    )


def _encoder_parameters(config: ConfigReader, encoder_tokens: int) -> int:
    """Two convolutions over the spectrogram, the position table, the layers and the final norm."""
    encoder = read_stack(config, "encoder", key_bias=False)
    hidden = encoder.hidden_size
    convolutions = hidden * (config.integer("num_mel_bins") + hidden) * _CONV_KERNEL + 2 * hidden
    return convolutions + hidden * encoder_tokens + encoder.encoder_layers() + layer_norm(hidden)


FAMILY = Family(
    name="whisper",
    model_types=("whisper",),
    architectures=("WhisperForConditionalGeneration",),
    read=_read,
    neutral_keys=frozenset(
        {
            "alignment_heads",
            "decoder_layerdrop",
            "encoder_layerdrop",
            "median_filter_width",
            "num_attention_heads",
            "num_hidden_layers",
            "use_weighted_layer_sum",
        }
    ),
)
