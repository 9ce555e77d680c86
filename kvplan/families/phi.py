"""Phi: Phi-3, Phi-3.5 and Phi-4 (Llama's blocks, a window in every layer where stated), and the older Phi-1 and Phi-2.

Shapes and defaults: transformers 5.23 ``models/phi3`` and ``models/phi``. Phi-3-small has a block-sparse attention of
its own and is refused by its keys.
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, read_windows
from kvplan.core.classic_decoder import CONTEXT, classic_blocks, read_classic_shape, read_full_windows, read_plain_mlp
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("phi3", "phi4", "phi4mini", "phi", "phi-msft", "mixformer-sequential")

_CLASSES = {
    "Phi3ForCausalLM": "phi3",
    "PhiForCausalLM": "phi",
    "MixFormerSequentialForCausalLM": "mixformer-sequential",
}
"""Class names, for configs without a model type."""


_OLD = ("phi", "phi-msft", "mixformer-sequential")


def _read(config: ConfigReader) -> Architecture:
    return _read_old(config) if read_model_type(config, _MODEL_TYPES, _CLASSES) in _OLD else _read_phi3(config)


def _read_phi3(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    shape = read_attention_shape(config)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        if config.flag(name, default=False):
            config.wrong(name, "must be false: Phi-3's class has no such bias")
    if config.integer("full_attn_mod", default=1) != 1:
        config.wrong("full_attn_mod", "must be 1: no engine mixes full layers into Phi-4's windows")
    feed_forward = dense_feed_forward(shape.hidden_size, config.integer("intermediate_size"))
    blocks = equal_blocks(shape, feed_forward, read_windows(config, num_layers), norms=2 * shape.hidden_size)
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_old(config: ConfigReader) -> Architecture:
    """Phi-1, Phi-1.5 and Phi-2: one LayerNorm per layer feeds attention and feed-forward alike, all with biases."""
    shape = read_classic_shape(config, num_kv_heads=config.optional_integer("num_key_value_heads", "n_head_kv"))
    head_norms = 4 * shape.head_dim if config.flag("qk_layernorm", default=False) else 0
    blocks = classic_blocks(
        shape,
        read_plain_mlp(config, shape.hidden_size),
        read_full_windows(config),
        num_norms=1,
        head_norms=head_norms,
    )
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=2 * shape.hidden_size,
        head_bias=True,
        context_keys=CONTEXT,
    )


FAMILY = Family(
    name="phi",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    neutral_keys=frozenset({"flash_attn", "embd_layer"}),
)
