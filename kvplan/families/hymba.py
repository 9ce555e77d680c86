"""Hymba (arXiv 2411.13676): attention and Mamba-1 heads side by side in every layer, over prepended meta tokens.

All layers keep the meta tokens. All but the global layers slide, and a layer that reuses an earlier one's keys and
values stores only its own Mamba state. Value heads take their width from the Mamba branch.
"""

from __future__ import annotations

from kvplan.core.attention import FullAttention, LayerKind, Shared, SlidingWindow
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import Block, decoder, dense_feed_forward
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import (
    exact_quotient,
    integer_or_default,
    read_dt_rank,
    read_layer_indices,
)
from kvplan.core.mixer_counting import short_convolution
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1


def read(config: ConfigReader) -> Architecture:
    """Every layer holds both branches; ``kv_reuse_group`` says whose keys and values a layer reads."""
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    mamba = Mamba1(
        intermediate_size=integer_or_default(config, 2, "HymbaConfig", "mamba_expand") * hidden_size,
        state_size=integer_or_default(config, 16, "HymbaConfig", "mamba_d_state"),
        conv_kernel=integer_or_default(config, 4, "HymbaConfig", "mamba_d_conv"),
    )
    shape = _read_attention(config, hidden_size, mamba.intermediate_size)
    num_meta_tokens = config.integer("num_memory_tokens", "num_meta_tokens", default=0, minimum=0)
    caches = _read_caches(config, shape, num_layers, num_meta_tokens)
    feed = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    own = linear(hidden_size, shape.num_kv_heads * (shape.head_dim + (shape.v_head_dim or shape.head_dim)))
    blocks = [
        Block(
            layer=(cache, mamba),
            attention=linear(hidden_size, shape.num_heads * shape.head_dim) + (0 if isinstance(cache, Shared) else own),
            state=_mixer_parameters(config, mamba, hidden_size),
            norms=2 * hidden_size + 2 * mamba.intermediate_size,
            feed_forward=feed,
        )
        for cache in caches
    ]
    return decoder(
        config,
        blocks,
        hidden_size=hidden_size,
        num_heads=shape.num_heads,
        other=num_meta_tokens * hidden_size,
    )


def _read_attention(config: ConfigReader, hidden_size: int, inner: int) -> AttentionShape:
    """Heads of the attention branch; -1 in a width means "derived" in Hymba's files."""
    num_heads = config.integer("num_attention_heads")
    width = config.integer("attn_hidden_size", default=-1, minimum=-1)
    head_dim = config.integer("kq_head_dim", default=-1, minimum=-1)
    if head_dim < 1:
        head_dim = exact_quotient(config, width if width > 0 else hidden_size, num_heads, "num_attention_heads")
    v_head_dim = exact_quotient(config, inner, num_heads, "num_attention_heads")
    config.ignore("v_head_dim")  # the block overwrites it with the width of its Mamba branch per head
    return AttentionShape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=config.integer("num_key_value_heads", default=num_heads),
        head_dim=head_dim,
        v_head_dim=v_head_dim,
    )


def _read_caches(config: ConfigReader, shape: AttentionShape, num_layers: int, num_meta_tokens: int) -> list[LayerKind]:
    window = config.optional_integer("sliding_window")
    global_at = read_layer_indices(config, num_layers, "global_attn_idx") or []
    sources = _read_sources(config, num_layers)
    full = FullAttention(
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        v_head_dim=shape.v_head_dim,
        num_prefix_tokens=num_meta_tokens,
    )
    sliding = (
        full
        if window is None
        else SlidingWindow(
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            v_head_dim=shape.v_head_dim,
            num_prefix_tokens=num_meta_tokens,
            window=window,
        )
    )
    own = [full if layer in global_at else sliding for layer in range(num_layers)]
    return [own[layer] if source == layer else Shared(source_layer=source) for layer, source in enumerate(sources)]


def _read_sources(config: ConfigReader, num_layers: int) -> list[int]:
    """The layer whose keys and values each layer reads: itself, or the first of its group."""
    every = config.integer("kv_reuse_every_i_layer", default=-1, minimum=-1)
    groups = config.value("kv_reuse_group")
    if groups is None:
        return [layer // every * every if every > 0 else layer for layer in range(num_layers)]
    sources = list(range(num_layers))
    for group in groups if isinstance(groups, list) else [groups]:
        valid = isinstance(group, list) and all(isinstance(layer, int) for layer in group)
        if not valid or not all(0 <= layer < num_layers for layer in group):
            config.wrong("kv_reuse_group", f"must hold lists of layers below {num_layers}, not {group!r}")
        for layer in group:
            sources[layer] = group[0]
    return sources


def _mixer_parameters(config: ConfigReader, mamba: Mamba1, hidden_size: int) -> int:
    """The Mamba branch with its share of the joint input projection, and the joint output projection."""
    inner, state_size = mamba.intermediate_size, mamba.state_size
    rank = read_dt_rank(config, hidden_size, "mamba_dt_rank")
    inner_norms = rank + 2 * state_size if config.flag("mamba_inner_layernorms", default=True) else 0
    return (
        linear(hidden_size, 2 * inner)
        + short_convolution(inner, mamba.conv_kernel, config.flag("mamba_conv_bias", default=True))
        + linear(inner, rank + 2 * state_size)
        + linear(rank, inner, bias=True)
        + inner * state_size
        + inner
        + inner_norms
        + linear(inner, hidden_size)
    )


FAMILY = Family(
    name="hymba",
    model_types=("hymba",),
    architectures=("HymbaForCausalLM",),
    read=read,
    neutral_keys=frozenset(
        {
            "attn_implementation",
            "attn_implementation_new",
            "conv_dim",
            "layer_type",
            "kv_weight_reuse",
            "orig_max_position_embeddings",
            "mamba_proj_bias",
            "use_mamba_kernels",
            "num_mamba",
        }
    ),
)
