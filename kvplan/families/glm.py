"""GLM: ChatGLM2/3 and GLM-4 in the first key names, and ``glm``/``glm4`` in those of transformers.

Shapes: transformers 5.23 ``models/glm`` and ``models/glm4`` (which adds a norm after each block), vLLM 0.32
``chatglm.py``. The query, key and value projections have a bias, the output projection has none.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import equal_blocks
from kvplan.core.classic_decoder import read_classic_shape, read_full_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("chatglm", "glm", "glm4")

_CLASSES = {
    "ChatGLMModel": "chatglm",
    "ChatGLMForConditionalGeneration": "chatglm",
    "GlmForCausalLM": "glm",
    "Glm4ForCausalLM": "glm4",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    model_type = read_model_type(config, _MODEL_TYPES, _CLASSES)
    if model_type == "chatglm":
        return _read_chatglm(config)
    shape = read_attention_shape(
        config, num_kv_heads=2, head_dim=128, qkv_bias=config.flag("attention_bias", default=True)
    )
    feed_forward = dense_feed_forward(shape.hidden_size, config.integer("intermediate_size"))
    num_norms = 4 if model_type == "glm4" else 2
    windows: list[int | None] = [None] * config.integer("num_hidden_layers")
    blocks = equal_blocks(shape, feed_forward, windows, norms=num_norms * shape.hidden_size)
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_chatglm(config: ConfigReader) -> Architecture:
    """ChatGLM2, ChatGLM3 and GLM-4-9B as first published (their own ``modeling_chatglm.py``)."""
    if config.has("vision_config"):
        config.note("the vision tower of GLM-4V is not counted")
    bias = config.flag("add_bias_linear", default=False)
    grouped = config.flag("multi_query_attention", default=False)
    groups = config.integer("multi_query_group_num", default=1)
    shape = read_classic_shape(
        config,
        num_kv_heads=groups if grouped else None,
        qkv_bias=bias or config.flag("add_qkv_bias", default=False),
        output_bias=bias,
    )
    shape = replace(shape, head_dim=config.integer("kv_channels", default=shape.head_dim))
    norm = shape.hidden_size if config.flag("rmsnorm", default=True) else 2 * shape.hidden_size
    feed_forward = dense_feed_forward(shape.hidden_size, config.integer("ffn_hidden_size"), bias)
    return decoder(
        config,
        equal_blocks(shape, feed_forward, read_full_windows(config), norms=2 * norm),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=norm if config.flag("post_layer_norm", default=True) else 0,
        vocab_keys=("padded_vocab_size", "vocab_size"),
        context_keys=("seq_length", "max_position_embeddings"),
    )


def _is_chatglm(config: ConfigReader) -> bool:
    """The first GLM-4 and ChatGLM files by their keys, should both names be missing."""
    return "multi_query_group_num" in config.values and "padded_vocab_size" in config.values


FAMILY = Family(
    name="glm",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    claims=_is_chatglm,
    read=_read,
    # pre_seq_len and prefix_projection switch prefix tuning on, which no published chat model does
    neutral_keys=frozenset(
        """
        apply_query_key_layer_scaling apply_residual_connection_post_layernorm attention_softmax_in_fp32
        use_flash_attn interleaved_qkv
        """.split()
    ),
)
