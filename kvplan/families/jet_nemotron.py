"""Jet-Nemotron (arXiv 2508.15884): JetBlock layers, a few of full and of sliding-window attention.

A JetBlock is a gated delta rule whose dynamic convolution covers the values only: the cache holds the last inputs
of that convolution and the state, nothing of queries and keys.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import Block, FeedForward, decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import read_block_names
from kvplan.core.model import Architecture
from kvplan.core.recurrent import GatedDeltaNet, ShortConv

_BLOCK_NAMES = {"jet": "jet", "attn": "full", "swa": "sliding"}


def read(config: ConfigReader) -> Architecture:
    """Layers by ``layer_types``; their sizes stand in ``efficient_attention_config``."""
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    names = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types")
    if names is None:
        config.missing("layer_types")
    shape = read_attention_shape(config, qkv_bias=True)
    feed = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    full = Block(layer=(headed_kind(shape),), attention=shape.parameters(), norms=2 * hidden_size, feed_forward=feed)
    blocks = {"full": full}
    sizes = config.section("efficient_attention_config")
    if sizes is None:
        config.missing("efficient_attention_config")
    jet, swa = sizes.section("jet"), sizes.section("swa")
    if "jet" in names:
        blocks["jet"] = _read_jet(jet if jet is not None else sizes.missing("jet"), hidden_size, feed)
    if "sliding" in names:
        window = (swa if swa is not None else sizes.missing("swa")).integer("window_size")
        blocks["sliding"] = replace(full, layer=(headed_kind(shape, window),))
    return decoder(config, [blocks[name] for name in names], hidden_size=hidden_size, num_heads=shape.num_heads)


def _read_jet(config: ConfigReader, hidden_size: int, feed: FeedForward) -> Block:
    config.ignore("mode", "norm_eps", "dconv_implementation")
    num_heads, head_dim = config.integer("num_heads"), config.integer("head_dim")
    expand = config.number("expand_v")
    key_width, value_width = num_heads * head_dim, int(num_heads * head_dim * expand)
    kernel = config.integer("conv_size")
    state = GatedDeltaNet(
        num_k_heads=num_heads,
        num_v_heads=num_heads,
        k_head_dim=head_dim,
        v_head_dim=int(head_dim * expand),
        conv_kernel=1,  # queries and keys are not convolved; the values' convolution is the ShortConv beside it
    )
    generator_width = value_width // config.integer("dconv_generator_reduction")
    mixer = (
        linear(hidden_size, 2 * key_width)
        + 2 * linear(hidden_size, value_width)
        + 2 * linear(hidden_size, num_heads)
        + 2 * num_heads
        + linear(hidden_size, generator_width)
        + linear(generator_width, value_width * kernel, bias=True)
        + state.v_head_dim
        + linear(value_width, hidden_size)
    )
    convolution = ShortConv(channels=value_width, conv_kernel=kernel)
    return Block(layer=(state, convolution), attention=0, state=mixer, norms=2 * hidden_size, feed_forward=feed)


FAMILY = Family(
    name="jet_nemotron",
    model_types=("jet_nemotron",),
    architectures=("JetNemotronForCausalLM",),
    read=read,
    neutral_keys=frozenset({"max_window_layers"}),
)
