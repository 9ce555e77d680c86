"""Phi: Phi-3, Phi-3.5 and Phi-4 (Llama's blocks, a window in every layer where stated), and the older Phi-1 and Phi-2.

Shapes and defaults: transformers 5.23 ``models/phi3`` and ``models/phi``. Phi-3-small has a block-sparse attention of
its own and is refused by its keys.
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, headed_kind, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, plain_mlp
from kvplan.core.decoder import Block, FeedForward, decoder, dense_feed_forward, read_attention_shape
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
    hidden = config.integer("hidden_size", "n_embd")
    heads = config.integer("num_attention_heads", "n_head")
    if hidden % heads:
        config.wrong("hidden_size", f"{hidden} is no multiple of the {heads} attention heads")
    shape = AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=config.integer("num_key_value_heads", "n_head_kv", default=heads),
        head_dim=hidden // heads,
        qkv_bias=True,
        output_bias=True,
    )
    has_head_norms = config.flag("qk_layernorm", default=False)
    block = Block(
        layer=(headed_kind(shape),),
        attention=shape.parameters(),
        norms=2 * hidden + (4 * shape.head_dim if has_head_norms else 0),
        feed_forward=FeedForward(
            mlp=plain_mlp(hidden, config.integer("intermediate_size", "n_inner", default=4 * hidden), bias=True)
        ),
    )
    return decoder(
        config,
        config.integer("num_hidden_layers", "n_layer") * [block],
        hidden_size=hidden,
        num_heads=heads,
        final_norm=2 * hidden,
        head_bias=True,
        context_keys=("max_position_embeddings", "n_positions"),
    )


FAMILY = Family(
    name="phi",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    neutral_keys=frozenset({"flash_attn", "embd_layer"}),
)
