"""Cohere: Command R and Aya (full attention), Command R7B and Command A (three sliding layers, then a full one).

One LayerNorm without bias per layer feeds attention and feed-forward alike; the output head is tied. Shapes and
defaults: transformers 5.23 ``models/cohere`` and ``models/cohere2``. Command R states its length of 131072 as
``model_max_length``, which goes before ``max_position_embeddings`` (8192), as in vLLM 0.32
(``transformers_utils/model_arch_config_convertor.py``).
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("cohere", "cohere2")

_CLASSES = {
    "CohereForCausalLM": "cohere",
    "Cohere2ForCausalLM": "cohere2",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, qkv_bias=bias, output_bias=bias)
    windows: list[int | None] = [None] * num_layers
    head_norms = 0
    if read_model_type(config, _MODEL_TYPES, _CLASSES) == "cohere":
        # Command R+ (104B) normalizes each head of queries and keys with a vector of its own
        has_head_norms = config.flag("use_qk_norm", default=False)
        head_norms = (shape.num_heads + shape.num_kv_heads) * shape.head_dim if has_head_norms else 0
    else:
        windows = read_windows(config, num_layers, default_window=4096, default_pattern=4)
    blocks = equal_blocks(
        shape,
        dense_feed_forward(shape.hidden_size, config.integer("intermediate_size")),
        windows,
        norms=shape.hidden_size + head_norms,
    )
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        context_keys=("model_max_length", "max_position_embeddings"),
    )


FAMILY = Family(
    name="cohere",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    # layer_switch and order_of_interleaved_layers say what sliding_window_pattern says, in the training code's words
    neutral_keys=frozenset(
        """
        layer_switch order_of_interleaved_layers use_parallel_block use_embedding_sharing
        """.split()
    ),
)
