"""OLMo: 1 (norms without weights), 2 (norms after each block, query and key norms), 3 (2 with sliding windows).

Shapes and defaults: transformers 5.23 ``models/olmo``, ``models/olmo2`` and ``models/olmo3``.
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, read_windows
from kvplan.core.classic_decoder import read_classic_shape, read_full_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("olmo2", "olmo", "olmo3", "hf_olmo")

_CLASSES = {
    "OlmoForCausalLM": "olmo",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo3",
    "OLMoForCausalLM": "hf_olmo",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    model_type = read_model_type(config, _MODEL_TYPES, _CLASSES)
    if model_type == "hf_olmo":
        return _read_original(config)
    num_layers = config.integer("num_hidden_layers")
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, qkv_bias=bias, output_bias=bias)
    # OLMo 2's query and key norms span all heads of a token
    head_norms = (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    is_first = model_type == "olmo"
    windows: list[int | None] = [None] * num_layers
    if model_type == "olmo3":
        windows = read_windows(config, num_layers, default_window=4096, default_pattern=4)
    blocks = equal_blocks(
        shape,
        dense_feed_forward(shape.hidden_size, config.integer("intermediate_size")),
        windows,
        norms=0 if is_first else 2 * shape.hidden_size + head_norms,
    )
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=0 if is_first else shape.hidden_size,
    )


def _read_original(config: ConfigReader) -> Architecture:
    """OLMo 1 under the key names of its training code (``hf_olmo``): SwiGLU's width counts both of its halves."""
    if config.text("activation_type", default="swiglu") != "swiglu":
        config.wrong("activation_type", "must be swiglu, as in every published OLMo")
    for name in ("include_bias", "bias_for_layer_norm", "layer_norm_with_affine", "attention_layer_norm"):
        if config.flag(name, default=False):
            config.wrong(name, "must be false, as in every published OLMo")
    hidden = config.integer("d_model")
    one_head = config.flag("multi_query_attention", default=False)
    shape = read_classic_shape(
        config,
        num_kv_heads=config.optional_integer("n_kv_heads") or (1 if one_head else None),
        qkv_bias=False,
        output_bias=False,
    )
    width = config.integer("mlp_hidden_size", default=int(config.number("mlp_ratio", default=4) * hidden))
    return decoder(
        config,
        equal_blocks(shape, dense_feed_forward(hidden, width // 2), read_full_windows(config), norms=0),
        hidden_size=hidden,
        num_heads=shape.num_heads,
        tied=config.flag("weight_tying", default=True),
        final_norm=0,
        vocab_keys=("embedding_size", "vocab_size"),
        context_keys=("max_sequence_length",),
    )


FAMILY = Family(
    name="olmo",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    neutral_keys=frozenset(
        """
        clip_qkv flash_attention attention_dropout attention_layer_norm_with_affine block_type block_group_size
        layer_norm_type
        """.split()
    ),
)
