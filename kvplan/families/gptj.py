"""GPT-J and CodeGen: rotary positions, one LayerNorm per layer for both blocks, an output head with a bias.

Shapes and defaults: transformers 5.23 ``models/gptj`` and ``models/codegen``.
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


def _read(config: ConfigReader) -> Architecture:
    shape = read_classic_shape(config, qkv_bias=False, output_bias=False)
    return decoder(
        config,
        classic_blocks(shape, read_plain_mlp(config, shape.hidden_size), read_full_windows(config), num_norms=1),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=2 * shape.hidden_size,
        head_bias=True,
        context_keys=CONTEXT,
    )


FAMILY = Family(
    name="gptj",
    model_types=("gptj", "codegen"),
    architectures=("GPTJForCausalLM", "CodeGenForCausalLM"),
    read=_read,
    neutral_keys=frozenset({"scale_attn_weights"}),
)
