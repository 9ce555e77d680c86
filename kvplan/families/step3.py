"""StepFun's models: Step-3 (queries through a low rank) and Step-3.5 (windows, gated attention), one shared expert.

Step-3.5's windowed layers have more query heads than its full ones, and its per-layer lists may run on over the draft
layers at the end. Keys: the published remote code, vLLM's step3_text and transformers 5.23 ``models/step3p7``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvplan.core.attention_layout import FULL, SLIDING, headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    check_length,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    config.complete({"max_position_embeddings": config.optional_integer("max_seq_len")})
    return _read_step3(config) if config.has("share_q_dim") else _read_step35(config)


def _read_step3(config: ConfigReader) -> Architecture:
    """Multi-matrix factorization attention (arXiv 2507.19427): one KV head, queries of all heads from a shared rank."""
    num_layers = config.integer("num_hidden_layers")
    shape = _read_shape(config)
    rank = config.integer("share_q_dim")
    query = shape.num_heads * shape.head_dim
    low_rank = linear(shape.hidden_size, rank) + rank + linear(rank, query)
    blocks = [
        Block(
            layer=(headed_kind(shape),),
            attention=shape.parameters() - linear(shape.hidden_size, query, shape.qkv_bias) + low_rank,
            norms=2 * shape.hidden_size,
            feed_forward=feed,
        )
        for feed in _read_feed_forwards(config, shape.hidden_size, num_layers)
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_step35(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    num_draft = config.integer("num_nextn_predict_layers", "num_mtp_layers", default=0, minimum=0)
    full = _read_shape(config)
    sliding = _read_sliding_shape(config, full)
    types = _read_types(config, num_layers, num_draft)
    window = config.integer("sliding_window") if SLIDING in types else None
    config.ignore("sliding_window")
    gated = config.flag("use_head_wise_attn_gate", "gating", default=True)
    blocks = [
        _block(full if entry == FULL else sliding, None if entry == FULL else window, gated, feed)
        for entry, feed in zip(types, _read_feed_forwards(config, full.hidden_size, num_layers + num_draft))
    ]
    return decoder(
        config,
        blocks[:num_layers],
        hidden_size=full.hidden_size,
        num_heads=full.num_heads,
        draft=blocks[num_layers:],
    )


def _block(shape: AttentionShape, window: int | None, gated: bool, feed: FeedForward) -> Block:
    return Block(
        layer=(headed_kind(shape, window),),
        attention=shape.parameters() + (linear(shape.hidden_size, shape.num_heads) if gated else 0),
        norms=2 * shape.hidden_size + 2 * shape.head_dim,
        feed_forward=feed,
    )


def _read_shape(config: ConfigReader) -> AttentionShape:
    bias = config.flag("attention_bias", default=False)
    return AttentionShape(
        hidden_size=config.integer("hidden_size"),
        num_heads=config.integer("num_attention_heads"),
        num_kv_heads=config.integer("num_attention_groups", "num_key_value_heads"),
        head_dim=config.integer("head_dim"),
        qkv_bias=bias,
        output_bias=bias,
    )


def _read_sliding_shape(config: ConfigReader, full: AttentionShape) -> AttentionShape:
    """``attention_other_setting`` describes the windowed layers; newer files state their query heads only."""
    other = config.section("attention_other_setting")
    heads = config.integer("num_sliding_attention_heads", default=full.num_heads)
    if other is None:
        return replace(full, num_heads=heads)
    if other.text("attention_type", default=SLIDING) != SLIDING:
        other.wrong("attention_type", f"must be {SLIDING}: no other second kind of layer is known")
    other.ignore("true_head_dim")
    return replace(
        full,
        num_heads=other.integer("num_attention_heads", default=heads),
        num_kv_heads=other.integer("num_attention_groups", default=full.num_kv_heads),
        head_dim=other.integer("head_dim", default=full.head_dim),
    )


def _read_types(config: ConfigReader, num_layers: int, num_draft: int) -> list[str]:
    types = config.texts("layer_types", allowed=(FULL, SLIDING)) or [FULL] * (num_layers + num_draft)
    if len(types) == num_layers:
        types += config.texts("mtp_layer_types", allowed=(FULL, SLIDING)) or [types[-1]] * num_draft
    check_length(config, "layer_types", types, num_layers + num_draft)
    return types


def _read_feed_forwards(config: ConfigReader, hidden_size: int, num_all: int) -> list[FeedForward]:
    """Experts with one shared expert in the layers that ``moe_layers_enum`` lists (``3,4,5``); the rest are dense."""
    dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    sparse = _read_sparse_layers(config, num_all)
    shape = read_mixture(
        config,
        hidden_size,
        config.integer("moe_intermediate_size"),
        num_experts=("moe_num_experts", "n_routed_experts", "num_local_experts"),
        num_active=("moe_top_k", "num_experts_per_tok"),
        shared_size=config.integer("share_expert_dim", "share_expert_dims", default=0, minimum=0),
    )
    mixture = mixture_feed_forward(shape)
    return [mixture if layer in sparse else dense for layer in range(num_all)]


def _read_sparse_layers(config: ConfigReader, num_all: int) -> Sequence[int] | set[int]:
    types = config.texts("mlp_layer_types", allowed=("dense", "sparse"))
    config.ignore("mtp_mlp_layer_types")
    listed = config.value("moe_layers_enum")
    if types is not None:
        return {layer for layer, entry in enumerate(types) if entry == "sparse"}
    if listed is None:
        config.missing("moe_layers_enum", "mlp_layer_types")
    entries = listed.split(",") if isinstance(listed, str) else listed
    if not isinstance(entries, list) or any(not str(entry).strip().isdigit() for entry in entries):
        config.wrong("moe_layers_enum", f"must list layer numbers, not {listed!r}")
    layers = {int(entry) for entry in entries}
    if layers and max(layers) >= num_all:
        config.wrong("moe_layers_enum", f"names layer {max(layers)}, beyond the {num_all} layers")
    return layers


FAMILY = Family(
    name="step3",
    model_types=("step3_text", "step3p5"),
    architectures=("Step3TextForCausalLM", "Step3p5ForCausalLM"),
    read=_read,
    neutral_keys=frozenset({"swiglu_limits_shared"}),
)
