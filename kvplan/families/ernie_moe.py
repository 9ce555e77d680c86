"""ERNIE 4.5's mixtures of experts: experts in every n-th layer between two layers that the config names.

Class defaults and shapes: transformers 5.23 ``models/ernie4_5_moe``. The files of ERNIE VL hold pairs (text, vision)
for some keys; its own family turns them into these keys.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import gated_mlp
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
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    bias = config.flag("use_bias", default=False)
    shape = read_attention_shape(config, num_kv_heads=4, qkv_bias=bias, output_bias=bias)
    num_layers = config.integer("num_hidden_layers")
    dense = dense_feed_forward(shape.hidden_size, config.integer("intermediate_size"), bias)
    sparse = _read_sparse_layers(config, num_layers)
    mixture = _read_experts(config, shape.hidden_size, bias)
    blocks = [
        Block(
            layer=(headed_kind(shape),),
            attention=shape.parameters(),
            norms=2 * shape.hidden_size,
            feed_forward=mixture if is_sparse else dense,
        )
        for is_sparse in [*sparse, False]  # the last one is the draft layer: dense (vLLM's ernie_mtp)
    ]
    num_draft = config.integer("num_nextn_predict_layers", default=0, minimum=0)
    return decoder(
        config,
        blocks[:-1],
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        head_bias=bias,
        draft=blocks[-1:] * num_draft,
    )


def _read_sparse_layers(config: ConfigReader, num_layers: int) -> list[bool]:
    """The layers with experts: a stated list, or every n-th between the first and the last index, both included."""
    types = config.texts("mlp_layer_types", allowed=("dense", "sparse"))
    every = config.integer("moe_layer_interval", default=1)
    if types is not None:
        config.ignore("moe_layer_start_index", "moe_layer_end_index")
        check_length(config, "mlp_layer_types", types, num_layers)
        return [entry == "sparse" for entry in types]
    first = config.integer("moe_layer_start_index", minimum=0)
    last = config.integer("moe_layer_end_index", minimum=-1)
    end = num_layers if last == -1 else last + 1
    return [first <= layer < end and (layer + 1) % every == 0 for layer in range(num_layers)]


def _read_experts(config: ConfigReader, hidden_size: int, bias: bool) -> FeedForward:
    """Routed and shared experts; the router's balancing bias is a parameter in this model's code.

    How many experts are shared has no agreed default (Baidu's code takes 0, transformers 2): the key is required.
    """
    size = config.integer("moe_intermediate_size")
    shared = size * config.integer("moe_num_shared_experts", minimum=0)
    experts = read_mixture(
        config, hidden_size, size, num_experts=("moe_num_experts",), num_active=("moe_k", "num_experts_per_tok")
    )
    feed = mixture_feed_forward(experts, router_bias=True)
    mlp = gated_mlp(hidden_size, shared, bias) if shared else 0
    return replace(feed, mlp=mlp, shared_intermediate_size=shared)


FAMILY = Family(
    name="ernie_moe",
    model_types=("ernie4_5_moe",),
    architectures=("Ernie4_5_MoeForCausalLM",),
    read=_read,
    neutral_keys=frozenset(
        {
            "compression_ratio",  # of rotary positions, not of the cache
            "use_flash_attention",
            "use_sparse_head_and_loss_fn",
            "weight_share_add_bias",
        }
    ),
)
