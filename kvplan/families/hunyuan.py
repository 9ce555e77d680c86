"""Hunyuan V1: dense models, Hunyuan-Large (cross-layer attention) and Hunyuan-A13B (experts in every layer).

With cross-layer attention (arXiv 2405.12981) only every ``cla_share_factor``-th layer makes keys and values; the
layers after it read them and have query and output projections only. Keys: the published remote code, which vLLM
0.32's ``hunyuan_v1.py`` reads alike; shapes: transformers 5.23 ``models/hunyuan_v1_dense`` and ``hunyuan_v1_moe``.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.attention import Shared
from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import (
    Block,
    FeedForward,
    check_length,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
)
from kvplan.core.family import Family
from kvplan.core.kv_sharing import query_and_output
from kvplan.core.mixture import MixtureShape
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    _refuse_latent_attention(config)
    shape = _read_attention(config)
    num_layers = config.integer("num_hidden_layers")
    # the remote code of model type "hunyuan" leaves the norms out unless told; the later classes always have them
    norms_queries = config.flag("use_qk_norm", default=config.values.get("model_type") != "hunyuan")
    share_factor = config.integer("cla_share_factor", default=1)
    every = share_factor if config.flag("use_cla", default=False) else 1
    feeds = _read_feed_forwards(config, shape.hidden_size, num_layers)
    blocks = [
        _block(shape, layer, layer - layer % every, shape.head_dim if norms_queries else 0, feed)
        for layer, feed in enumerate(feeds)
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _refuse_latent_attention(config: ConfigReader) -> None:
    if config.flag("use_mla", default=False):
        config.wrong("use_mla", "is true: no published Hunyuan V1 has latent attention, and its layout is not known")
    config.ignore("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")


def _read_attention(config: ConfigReader) -> AttentionShape:
    """``head_dim``, or in the first files ``attention_head_dim``."""
    config.complete({"head_dim": config.optional_integer("attention_head_dim")})
    bias = config.flag("attention_bias", default=False)
    return read_attention_shape(config, qkv_bias=bias, output_bias=bias)


def _block(shape: AttentionShape, layer: int, source: int, head_norm: int, feed: FeedForward) -> Block:
    """A layer that makes its own keys and values, or one that reads those of layer ``source``."""
    is_own = layer == source
    return Block(
        layer=(headed_kind(shape) if is_own else Shared(source_layer=source),),
        attention=shape.parameters() if is_own else query_and_output(shape),
        norms=2 * shape.hidden_size + (2 if is_own else 1) * head_norm,
        feed_forward=feed,
    )


def _read_feed_forwards(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """Dense, or experts after the first ``moe_layer_num_skipped`` layers; counts and sizes may differ per layer."""
    size = config.integer("intermediate_size")
    dense = dense_feed_forward(hidden_size, size, config.flag("mlp_bias", default=False))
    num_experts = _per_layer(config, "num_experts", num_layers, 1)
    num_active = _per_layer(config, "moe_topk", num_layers, 1)
    num_shared = _per_layer(config, "num_shared_expert", num_layers, 1)
    expert_sizes = _per_layer(config, "moe_intermediate_size", num_layers, size)
    has_shared = config.flag("use_mixed_mlp_moe", default=True)
    skipped = config.integer("moe_layer_num_skipped", default=0, minimum=0)
    feeds = [
        mixture_feed_forward(
            MixtureShape(
                hidden_size=hidden_size,
                expert_intermediate_size=expert_size,
                num_experts=experts,
                num_active=min(active, experts),
                shared_intermediate_size=size * shared if has_shared else 0,
            )
        )
        if experts > 1
        else dense
        for expert_size, experts, active, shared in zip(expert_sizes, num_experts, num_active, num_shared)
    ]
    return [dense] * skipped + feeds[skipped:]


def _per_layer(config: ConfigReader, name: str, num_layers: int, default: int) -> Sequence[int]:
    """A key that holds one number for all layers, or a list with one per layer."""
    if isinstance(config.value(name), list):
        values = config.integers(name) or []
        check_length(config, name, values, num_layers)
        return values
    return [config.integer(name, default=default, minimum=0)] * num_layers


FAMILY = Family(
    name="hunyuan",
    model_types=("hunyuan", "hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_dense"),
    architectures=("HunYuanForCausalLM", "HunYuanDenseV1ForCausalLM", "HunYuanMoEV1ForCausalLM"),
    read=_read,
    # dense_list, pool_type and the classification head shape an embedding head that no decoder uses
    neutral_keys=frozenset({"add_classification_head", "moe_drop_tokens"}),
)
