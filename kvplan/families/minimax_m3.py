"""MiniMax-M3: grouped-query attention everywhere, and in sparse layers an index of keys that picks blocks to read.

The index stores one key of ``sparse_index_dim`` per token next to the layer's own keys and values. Keys: the
published file; flat names and shapes: transformers 5.23 ``models/minimax_m3_vl`` (``MiniMaxM3VLTextConfig``).
"""

from __future__ import annotations

from kvplan.core.attention import IndexKeys
from kvplan.core.attention_layout import FULL, headed_kind, read_layer_types
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    check_length,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.mixture import read_sparse_layers
from kvplan.core.model import Architecture

_SPARSE = "minimax_m3_sparse"


def _read(config: ConfigReader) -> Architecture:
    shape = read_attention_shape(config, num_kv_heads=4, head_dim=128)
    num_layers = config.integer("num_hidden_layers")
    index_heads, index, index_parameters = _read_index(config, shape.hidden_size)
    attention = shape.parameters()
    if config.flag("attention_output_gate", default=False):
        attention += linear(shape.hidden_size, shape.num_heads * shape.head_dim)
    kind = headed_kind(shape)
    blocks = [
        Block(
            layer=(kind, index) if is_indexed else (kind,),
            attention=attention + (index_parameters if is_indexed else 0),
            norms=2 * shape.hidden_size + 2 * shape.head_dim,
            feed_forward=feed,
        )
        for is_indexed, feed in zip(
            _read_indexed_layers(config, num_layers), _read_feed_forwards(config, shape.hidden_size, num_layers)
        )
    ]
    num_draft = config.integer("num_nextn_predict_layers", "num_mtp_modules", default=0, minimum=0)
    config.ignore("num_mtp_modules")
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        draft=blocks[-1:] * num_draft,
        index_num_heads=index_heads,
    )


def _read_index(config: ConfigReader, hidden_size: int) -> tuple[int, IndexKeys, int]:
    """Heads, kind and parameters of a sparse layer's index: queries of all heads, one key, a norm for each."""
    nested = config.section("sparse_attention_config") or config
    head_dim = nested.integer("sparse_index_dim", "index_head_dim")
    num_heads = nested.integer("sparse_num_index_heads", "index_n_heads")
    config.ignore("index_head_dim", "index_n_heads", "index_block_size", "index_topk_blocks", "index_local_blocks")
    nested.ignore("sparse_block_size", "sparse_topk_blocks", "sparse_init_block", "sparse_local_block")
    nested.ignore("sparse_score_type")
    parameters = linear(hidden_size, (num_heads + 1) * head_dim) + 2 * head_dim
    return num_heads, IndexKeys(head_dim=head_dim), parameters


def _read_indexed_layers(config: ConfigReader, num_layers: int) -> list[bool]:
    types = read_layer_types(config, num_layers, (FULL, _SPARSE))
    nested = config.section("sparse_attention_config")
    frequency = nested.integers("sparse_attention_freq") if nested is not None else None
    if nested is not None and not nested.flag("use_sparse_attention", default=True):
        nested.ignore("sparse_disable_index_value")
        return [False] * num_layers
    if types is not None:
        return [entry == _SPARSE for entry in types]
    if nested is None or frequency is None:
        config.missing("layer_types", "sparse_attention_config.sparse_attention_freq")
    check_length(nested, "sparse_attention_freq", frequency, num_layers)
    _refuse_index_values(nested, frequency)
    return [entry != 0 for entry in frequency]


def _refuse_index_values(nested: ConfigReader, frequency: list[int]) -> None:
    """An index may also store values; no published model does, and no engine here is known to."""
    disabled = nested.integers("sparse_disable_index_value")
    if disabled is None:
        return
    check_length(nested, "sparse_disable_index_value", disabled, len(frequency))
    if any(sparse and not off for sparse, off in zip(frequency, disabled)):
        nested.wrong("sparse_disable_index_value", "keeps the values of an index, whose size in the cache is not known")


def _read_feed_forwards(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    dense = dense_feed_forward(hidden_size, config.integer("dense_intermediate_size"))
    config.ignore("n_shared_experts")  # the shared experts' joint size is stated
    shape = read_mixture(
        config,
        hidden_size,
        config.integer("moe_intermediate_size", "intermediate_size"),
        shared_size=config.integer("shared_intermediate_size", minimum=0),
    )
    mixture = mixture_feed_forward(shape)
    return [mixture if is_sparse else dense for is_sparse in read_sparse_layers(config, num_layers)]


FAMILY = Family(
    name="minimax_m3",
    model_types=("minimax_m3", "minimax_m3_vl_text"),
    architectures=("MiniMaxM3ForCausalLM",),
    read=_read,
)
