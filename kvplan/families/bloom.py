"""BLOOM: ALiBi positions, LayerNorm also after the embedding, tied output head (transformers 5.23 ``models/bloom``)."""

from __future__ import annotations

from kvplan.core.classic_decoder import (
    CONTEXT,
    classic_blocks,
    read_classic_shape,
    read_full_windows,
    read_plain_mlp,
)
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    shape = read_classic_shape(config)
    norm = 2 * shape.hidden_size
    return decoder(
        config,
        classic_blocks(shape, read_plain_mlp(config, shape.hidden_size), read_full_windows(config)),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=2 * norm,  # the embedding's and the last one
        context_keys=CONTEXT,
    )


FAMILY = Family(
    name="bloom",
    model_types=("bloom",),
    architectures=("BloomForCausalLM", "BloomModel"),
    read=_read,
    neutral_keys=frozenset(
        """
        apply_residual_connection_post_layernorm attention_softmax_in_fp32 skip_bias_add_qkv
        """.split()
    ),
)
