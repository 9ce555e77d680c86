"""Mistral, Ministral, Devstral: Llama's blocks, with a sliding window where the config states one.

Mistral-7B v0.1 slides in every layer; Ministral-8B names its sliding layers in ``layer_types``; later models have
none. Key names and defaults: transformers 5.23 ``models/mistral``, ``ministral`` and ``ministral3``.
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("mistral", "ministral", "ministral3")

_CLASSES = {
    "MistralForCausalLM": "mistral",
    "MinistralForCausalLM": "ministral",
    "Ministral3ForCausalLM": "ministral3",
}
"""Class names, for configs without a model type."""


_CLASS_WINDOW = {"mistral": 4096, "ministral": 4096}
"""The window that a class takes where the file has no ``sliding_window`` (a stated null means none)."""

_CLASS_HEAD_DIM = {"ministral3": 128}


def _read(config: ConfigReader) -> Architecture:
    model_type = read_model_type(config, _MODEL_TYPES, _CLASSES)
    num_layers = config.integer("num_hidden_layers")
    shape = read_attention_shape(config, num_kv_heads=8, head_dim=_CLASS_HEAD_DIM.get(model_type))
    feed_forward = dense_feed_forward(shape.hidden_size, config.integer("intermediate_size"))
    blocks = equal_blocks(
        shape,
        feed_forward,
        read_windows(config, num_layers, default_window=_CLASS_WINDOW.get(model_type)),
        norms=2 * shape.hidden_size,
    )
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


FAMILY = Family(
    name="mistral",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    # sliding_window_size, attention_sink_size, prefill_chunk_size, context_window_size: MLC's run-time settings, saved
    # into some published files; transformers and vLLM do not read them
    neutral_keys=frozenset({"sliding_window_size", "attention_sink_size", "prefill_chunk_size", "context_window_size"}),
)
