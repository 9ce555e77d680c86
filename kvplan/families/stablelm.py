"""StableLM and Orion: Llama's blocks normalized by LayerNorm with a bias.

Shapes and defaults: transformers 5.23 ``models/stablelm``; Orion's own ``modeling_orion.py``. StableLM 2 12B runs
attention and feed-forward in parallel on one norm and normalizes every query and key head by a vector of its own.
"""

from __future__ import annotations

from kvplan.core.classic_decoder import classic_blocks
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    bias = config.flag("use_qkv_bias", "attention_bias", default=False)
    shape = read_attention_shape(config, qkv_bias=bias)
    blocks = classic_blocks(
        shape,
        dense_feed_forward(shape.hidden_size, config.integer("intermediate_size")),
        [None] * config.integer("num_hidden_layers"),
        num_norms=1 if config.flag("use_parallel_residual", default=False) else 2,
        head_norms=_head_norms(config, shape),
    )
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=2 * shape.hidden_size,
        context_keys=("max_position_embeddings", "max_sequence_length"),
    )


def _head_norms(config: ConfigReader, shape: AttentionShape) -> int:
    if not config.flag("qk_layernorm", default=False):
        return 0
    return (shape.num_heads + shape.num_kv_heads) * shape.head_dim


FAMILY = Family(
    name="stablelm",
    model_types=("stablelm", "stablelm_epoch", "orion"),
    architectures=("StableLmForCausalLM", "StableLMEpochForCausalLM", "OrionForCausalLM"),
    read=_read,
    neutral_keys=frozenset({"num_heads"}),  # repeats num_attention_heads in the files of StableLM-3B-4E1T
)
