"""Falcon: multi-query in the 7B (one key-value head whatever ``num_kv_heads`` says), grouped in the 40B and 180B.

``new_decoder_architecture`` makes ``num_kv_heads`` count; otherwise ``multi_query`` alone decides (transformers 5.23
``models/falcon/modeling_falcon.py``, ``FalconAttention``). RefinedWeb is the model type of the first uploads.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.classic_decoder import HEADS, classic_blocks, read_classic_shape, read_full_windows, read_plain_mlp
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    # RefinedWeb-40B has no such key: its n_head_kv is what tells it from RefinedWebModel-7B
    is_new = config.flag("new_decoder_architecture", default=config.has("n_head_kv"))
    bias = config.flag("bias", default=False)
    shape = read_classic_shape(config, num_kv_heads=_read_kv_heads(config, is_new), qkv_bias=bias, output_bias=bias)
    blocks = classic_blocks(
        shape,
        read_plain_mlp(config, shape.hidden_size, bias),
        read_full_windows(config),
        num_norms=_read_num_norms(config, is_new),
    )
    architecture = decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=2 * shape.hidden_size,
    )
    if architecture.max_context_tokens is None:
        config.note("max_position_embeddings is absent: 2048, the default of transformers 5.23, is assumed")
    return replace(architecture, max_context_tokens=architecture.max_context_tokens or 2048)


def _read_kv_heads(config: ConfigReader, is_new: bool) -> int:
    stated = config.optional_integer("num_kv_heads", "n_head_kv")
    multi_query = config.flag("multi_query", default=True)
    heads = config.integer(*HEADS)
    if is_new:
        return stated or heads
    return 1 if multi_query else heads


def _read_num_norms(config: ConfigReader, is_new: bool) -> int:
    """Two, or one where attention and feed-forward run in parallel on the same norm (Falcon-7B, Falcon2-11B)."""
    if not config.flag("parallel_attn", default=True):
        return 2
    return config.integer("num_ln_in_parallel_attn", default=2 if is_new else 1)


FAMILY = Family(
    name="falcon",
    model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
    architectures=("FalconForCausalLM", "RWForCausalLM"),
    read=_read,
    neutral_keys=frozenset({"apply_residual_connection_post_layernorm"}),
)
