"""StarCoder: the first one (GPT-BigCode, one key-value head for all queries) and StarCoder2 (grouped, windowed).

Shapes and defaults: transformers 5.23 ``models/gpt_bigcode`` and ``models/starcoder2``.
"""

from __future__ import annotations

from kvplan.core.attention_layout import read_windows
from kvplan.core.classic_decoder import (
    CONTEXT,
    LAYERS,
    classic_blocks,
    read_classic_shape,
    read_full_windows,
    read_plain_mlp,
)
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("gpt_bigcode", "starcoder2")

_CLASSES = {
    "GPTBigCodeForCausalLM": "gpt_bigcode",
    "Starcoder2ForCausalLM": "starcoder2",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    return (
        _read_second(config) if read_model_type(config, _MODEL_TYPES, _CLASSES) == "starcoder2" else _read_first(config)
    )


def _read_first(config: ConfigReader) -> Architecture:
    one_head = config.flag("multi_query", default=True)
    config.ignore("num_key_value_heads")  # transformers saves what it derives from multi_query
    shape = read_classic_shape(config, num_kv_heads=1 if one_head else None)
    return decoder(
        config,
        classic_blocks(shape, read_plain_mlp(config, shape.hidden_size), read_full_windows(config)),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=2 * shape.hidden_size,
        num_positions=config.integer(*CONTEXT),
        context_keys=CONTEXT,
    )


def _read_second(config: ConfigReader) -> Architecture:
    bias = config.flag("use_bias", default=True)
    shape = read_attention_shape(config, num_kv_heads=2, qkv_bias=bias, output_bias=bias)
    windows = read_windows(config, config.integer(*LAYERS))
    return decoder(
        config,
        classic_blocks(shape, read_plain_mlp(config, shape.hidden_size, bias), windows),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=2 * shape.hidden_size,
    )


FAMILY = Family(
    name="starcoder",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    # inference_runner, pad_key_length and their kin ask for a run-time that transformers removed
    neutral_keys=frozenset(
        """
        scale_attn_weights attention_softmax_in_fp32 scale_attention_softmax_in_fp32 pre_allocate_kv_cache
        """.split()
    ),
)
