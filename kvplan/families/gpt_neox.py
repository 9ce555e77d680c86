"""GPT-NeoX (Pythia, Dolly, RedPajama-INCITE, StableLM-alpha) and Persimmon: rotary positions and LayerNorm.

Shapes and defaults: transformers 5.23 ``models/gpt_neox`` and ``models/persimmon`` (which adds LayerNorms of queries
and keys, each of one head's width).
"""

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
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("gpt_neox", "persimmon")

_CLASSES = {
    "GPTNeoXForCausalLM": "gpt_neox",
    "PersimmonForCausalLM": "persimmon",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    is_persimmon = read_model_type(config, _MODEL_TYPES, _CLASSES) == "persimmon"
    bias = True if is_persimmon else config.flag("attention_bias", default=True)
    shape = read_classic_shape(config, qkv_bias=bias, output_bias=bias)
    has_head_norms = is_persimmon and config.flag("qk_layernorm", default=True)
    blocks = classic_blocks(
        shape,
        read_plain_mlp(config, shape.hidden_size),
        read_full_windows(config),
        head_norms=4 * shape.head_dim if has_head_norms else 0,
    )
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=2 * shape.hidden_size,
        context_keys=CONTEXT,
    )


FAMILY = Family(
    name="gpt_neox",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
)
