"""EXAONE: 3.x (Llama's blocks under its own key names) and 4 (sliding layers, query and key norms per head).

EXAONE 4 writes its layout as ``sliding_window_pattern`` letters (``LLLG``: three local layers, one global), as a
number, or as ``layer_types``. Shapes: transformers 5.23 ``models/exaone4``; 3.x: its own ``modeling_exaone.py``.
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("exaone4", "exaone")

_CLASSES = {
    "ExaoneForCausalLM": "exaone",
    "Exaone4ForCausalLM": "exaone4",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    is_exaone4 = read_model_type(config, _MODEL_TYPES, _CLASSES) != "exaone"
    num_layers = config.integer("num_hidden_layers", "num_layers")
    shape = read_attention_shape(config)
    windows: list[int | None] = [None] * num_layers
    if is_exaone4:
        windows = read_windows(config, num_layers, default_window=4096, default_pattern=4)
    blocks = equal_blocks(
        shape,
        dense_feed_forward(shape.hidden_size, config.integer("intermediate_size")),
        windows,
        norms=2 * shape.hidden_size + (2 * shape.head_dim if is_exaone4 else 0),
    )
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


FAMILY = Family(
    name="exaone",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
)
