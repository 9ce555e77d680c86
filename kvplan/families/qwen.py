"""Qwen: the first Qwen with its own key names, Qwen2/2.5 with biased projections, Qwen3 with query and key norms.

Qwen2 and Qwen3 have a sliding window only if ``use_sliding_window`` is true, and then only in the layers from
``max_window_layers`` on (transformers 5.23 ``models/qwen2``, ``models/qwen3``). The first Qwen follows its own
``modeling_qwen.py``: ``intermediate_size`` counts both halves of the gated block.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import equal_blocks, read_windows
from kvplan.core.classic_decoder import read_classic_shape, read_full_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("qwen2", "qwen2_text", "qwen3", "qwen3_text", "qwen", "mimo")

_CLASSES = {
    "QWenLMHeadModel": "qwen",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MiMoForCausalLM": "mimo",
}
"""Class names, for configs without a model type."""

_QWEN3 = ("qwen3", "qwen3_text")


def _read(config: ConfigReader) -> Architecture:
    model_type = read_model_type(config, _MODEL_TYPES, _CLASSES)
    if model_type == "qwen":
        return _read_first(config)
    num_layers = config.integer("num_hidden_layers")
    shape = _read_shape(config, model_type)
    draft = config.integer("num_nextn_predict_layers", default=0, minimum=0)
    windows = read_windows(config, num_layers, default_window=4096, default_max_window_layers=28, default_use=False)
    blocks = equal_blocks(
        shape,
        dense_feed_forward(shape.hidden_size, config.integer("intermediate_size")),
        windows,
        norms=2 * shape.hidden_size + (2 * shape.head_dim if model_type in _QWEN3 else 0),
    )
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads, draft=draft * blocks[-1:])


def _read_shape(config: ConfigReader, model_type: str) -> AttentionShape:
    """Query, key and value projections have a bias in Qwen2 always, in Qwen3 and MiMo if ``attention_bias`` is true."""
    stated_bias = config.flag("attention_bias", default=False)
    if model_type in _QWEN3:
        return read_attention_shape(
            config, num_kv_heads=32, head_dim=128, qkv_bias=stated_bias, output_bias=stated_bias
        )
    return read_attention_shape(config, num_kv_heads=32, qkv_bias=stated_bias or model_type != "mimo")


def _read_first(config: ConfigReader) -> Architecture:
    bias = not config.flag("no_bias", default=True)
    shape = read_classic_shape(config, output_bias=bias)
    shape = replace(shape, head_dim=config.integer("kv_channels", default=shape.head_dim))
    hidden = shape.hidden_size
    if config.has("visual"):
        config.note("the vision tower of Qwen-VL is not counted")
    feed_forward = dense_feed_forward(hidden, config.integer("intermediate_size", "ffn_hidden_size") // 2, bias)
    return decoder(
        config,
        equal_blocks(shape, feed_forward, read_full_windows(config), norms=2 * hidden),
        hidden_size=hidden,
        num_heads=shape.num_heads,
        vocab_keys=("vocab_size", "padded_vocab_size"),
        context_keys=("max_position_embeddings", "seq_length", "n_positions"),
    )


FAMILY = Family(
    name="qwen",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    # use_cache_quantization and use_cache_kernel are run-time choices of the first Qwen's own code
    neutral_keys=frozenset(
        """
        use_logn_attn use_flash_attn use_cache_quantization use_cache_kernel scale_attn_weights
        """.split()
    ),
)
