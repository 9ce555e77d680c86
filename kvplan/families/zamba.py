"""Zamba (arXiv 2405.16712) and Zamba2 (arXiv 2411.15242): Mamba layers, some preceded by a shared transformer block.

The block's weights are shared between its uses; its cache is not: each hybrid layer keeps its own keys and values,
of heads that span twice the hidden size, besides the Mamba state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvplan.core.attention import FullAttention
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import Block, FeedForward, decoder, dense_feed_forward
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import (
    NO_FEED_FORWARD,
    exact_quotient,
    integer_or_default,
    read_block_names,
    read_dt_rank,
)
from kvplan.core.mixer_counting import mamba1_mixer, mamba2_mixer
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1, Mamba2

_BLOCK_NAMES = {"mamba": "mamba", "linear_attention": "mamba", "m": "mamba", "hybrid": "hybrid", "g": "hybrid"}


def read(config: ConfigReader) -> Architecture:
    """Mamba in every layer; hybrid layers put full attention in front of it."""
    names = {config.text("model_type", default=""), *(config.texts("architectures") or [])}
    is_zamba2 = not names.isdisjoint(("zamba2", "Zamba2ForCausalLM"))
    return _read_zamba2(config) if is_zamba2 else _read_zamba(config)


def _read_zamba(config: ConfigReader) -> Architecture:
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    types = read_block_names(config, num_layers, _BLOCK_NAMES, "layers_block_type", "layer_types")
    period = config.integer("attn_layer_period", default=6)
    offset = config.integer("attn_layer_offset", default=4, minimum=0)
    if types is None:  # ZambaConfig: the third layer is hybrid, and the period counts from the fourth
        tail = ["hybrid" if index % period == offset else "mamba" for index in range(num_layers - 3)]
        types = ["mamba", "mamba", "hybrid", *tail][:num_layers]
    mamba = Mamba1(
        intermediate_size=integer_or_default(config, 2, "ZambaConfig", "mamba_expand") * hidden_size,
        state_size=integer_or_default(config, 16, "ZambaConfig", "mamba_d_state"),
        conv_kernel=integer_or_default(config, 4, "ZambaConfig", "mamba_d_conv"),
    )
    config.ignore("n_mamba_heads")  # heads of Zamba's Mamba-1 share out the width: the sums stay the same
    mixer = mamba1_mixer(
        mamba,
        hidden_size,
        read_dt_rank(config, hidden_size, "mamba_dt_rank"),
        projection_bias=config.flag("mamba_proj_bias", default=False),
        convolution_bias=config.flag("mamba_conv_bias", default=True),
    )
    feed = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    return _architecture(config, types, mamba, mixer, feed, num_shared_blocks=1)


def _read_zamba2(config: ConfigReader) -> Architecture:
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    types = read_block_names(config, num_layers, _BLOCK_NAMES, "layers_block_type", "layer_types")
    if types is None:
        config.missing("layers_block_type")
    mamba = _read_mamba2(config, hidden_size)
    bias = config.flag("add_bias_linear", default=False)
    mixer = mamba2_mixer(mamba, hidden_size, input_bias=bias, output_bias=bias)
    intermediate_size = config.integer("intermediate_size", "ffn_hidden_size", default=4 * hidden_size)
    feed = dense_feed_forward(hidden_size, intermediate_size, bias)
    num_shared_blocks = min(config.integer("num_mem_blocks", default=1), max(types.count("hybrid"), 1))
    architecture = _architecture(
        config,
        types,
        mamba,
        mixer,
        feed,
        num_shared_blocks=num_shared_blocks,
        adapter=_adapter_parameters(config, hidden_size, intermediate_size),
    )
    if config.flag("use_long_context", default=False):  # Zamba2Config widens the range by this switch alone
        return replace(architecture, max_context_tokens=16384)
    return architecture


def _read_mamba2(config: ConfigReader, hidden_size: int) -> Mamba2:
    width = integer_or_default(config, 2, "Zamba2Config", "mamba_expand") * hidden_size
    num_heads = integer_or_default(config, 8, "Zamba2Config", "n_mamba_heads")
    head_dim = exact_quotient(config, width, num_heads, "n_mamba_heads")
    if config.integer("mamba_headdim", default=head_dim) != head_dim:
        config.wrong("mamba_headdim", f"times n_mamba_heads ({num_heads}) must be the mixer's width ({width})")
    return Mamba2(
        num_heads=num_heads,
        head_dim=head_dim,
        state_size=integer_or_default(config, 64, "Zamba2Config", "mamba_d_state", "state_size"),
        num_groups=integer_or_default(config, 1, "Zamba2Config", "mamba_ngroups"),
        conv_kernel=integer_or_default(config, 4, "Zamba2Config", "mamba_d_conv", "conv_dimension"),
    )


def _adapter_parameters(config: ConfigReader, hidden_size: int, intermediate_size: int) -> int:
    """Low-rank adapters that one use of a shared block owns: of its MLP always, of q, k and v if switched on."""
    rank = config.integer("adapter_rank", "lora_rank", default=128)
    adapters = linear(hidden_size, rank) + linear(rank, 2 * intermediate_size)
    if config.flag("use_shared_attention_adapter", "use_shared_attention_lora", default=False):
        adapters += 3 * (linear(2 * hidden_size, rank) + linear(rank, 2 * hidden_size))
    return adapters


def _architecture(
    config: ConfigReader,
    types: Sequence[str],
    mamba: Mamba1 | Mamba2,
    mixer: int,
    feed: FeedForward,
    *,
    num_shared_blocks: int,
    adapter: int = 0,
) -> Architecture:
    """``feed`` is the MLP of one shared block, ``adapter`` what each use of a block adds to it."""
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    width = 2 * hidden_size
    head_dim = config.integer(
        "attention_head_dim", default=exact_quotient(config, width, num_heads, "num_attention_heads")
    )
    num_kv_heads = config.integer("num_key_value_heads", default=num_heads)
    cache = FullAttention(num_kv_heads=num_kv_heads, head_dim=head_dim)
    shared = (
        linear(width, (num_heads + 2 * num_kv_heads) * head_dim)
        + linear(num_heads * head_dim, hidden_size)
        + feed.mlp
        + 3 * hidden_size  # a norm of twice the width and one of the width
    )
    plain = Block(layer=(mamba,), attention=0, state=mixer, norms=hidden_size, feed_forward=NO_FEED_FORWARD)
    hybrid = replace(
        plain,
        layer=(cache, mamba),
        attention=adapter + linear(hidden_size, hidden_size),
        feed_forward=FeedForward(intermediate_size=feed.intermediate_size),  # its parameters stand once, in ``other``
    )
    blocks = [hybrid if name == "hybrid" else plain for name in types]
    return decoder(
        config,
        blocks,
        hidden_size=hidden_size,
        num_heads=num_heads,
        tied=True,
        other=num_shared_blocks * shared if "hybrid" in types else 0,
    )


FAMILY = Family(
    name="zamba",
    model_types=("zamba", "zamba2"),
    architectures=("ZambaForCausalLM", "Zamba2ForCausalLM"),
    read=read,
    neutral_keys=frozenset(
        {
            "attention_hidden_size",
            "hidden_mamba_act",
            "use_mamba_kernels",
            "use_mem_eff_path",
            "chunk_size",
            "use_conv_bias",
            "kv_channels",
            "num_query_groups",
            "hybrid_layer_ids",
            "use_shared_mlp_adapter",
            "use_shared_block_lora",
        }
    ),
)
