"""Decoders found by architecture search: DeciLM and NVIDIA's Llama-Nemotron (51B, Super 49B, Ultra 253B).

Each layer has its own number of key-value heads, or no attention at all: ``block_configs`` says so layer by layer;
DeciLM-7B has a list of key-value heads instead. Key names and rounding: NVIDIA's ``modeling_decilm.py`` and
``block_config.py``, which vLLM 0.32 ``nemotron_nas.py`` follows.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvplan.core.attention import LayerKind, NoCache, SlidingWindow
from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import Block, FeedForward, check_length, decoder, dense_feed_forward
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.units import round_up

_ROUNDING = 256
"""Feed-forward widths are rounded up to a multiple of this (``_find_multiple`` in ``modeling_decilm.py``)."""


def _read(config: ConfigReader) -> Architecture:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    if config.has("block_configs"):
        blocks = [_searched_block(entry, config, hidden, heads) for entry in _entries(config, num_layers)]
    else:
        blocks = _grouped_blocks(config, hidden, heads, num_layers)
    return decoder(config, blocks, hidden_size=hidden, num_heads=heads)


def _entries(config: ConfigReader, num_layers: int) -> list[ConfigReader]:
    entries = config.value("block_configs")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        config.wrong("block_configs", "must be a list of one mapping per layer")
    check_length(config, "block_configs", entries, num_layers)
    config.ignore("num_key_value_heads", "intermediate_size", "num_key_value_heads_per_layer")  # null, or not used
    return [
        ConfigReader(entry, config.source, f"{config.path}block_configs[{layer}].")
        for layer, entry in enumerate(entries)
    ]


def _searched_block(entry: ConfigReader, config: ConfigReader, hidden: int, heads: int) -> Block:
    attention = entry.section("attention") or entry.missing("attention")
    ffn = entry.section("ffn") or entry.missing("ffn")
    kind, attention_count = _searched_attention(attention, config, hidden, heads)
    feed_forward = _searched_feed_forward(ffn, hidden, config.flag("mlp_bias", default=False))
    left = [key for key, value in entry.unread().items() if value]
    if left:
        config.wrong(left[0].removeprefix(config.path), "is unknown and could change the cache")
    num_norms = (attention_count > 0) + (feed_forward.mlp > 0)  # a block left out has no norm either
    return Block(layer=(kind,), attention=attention_count, norms=num_norms * hidden, feed_forward=feed_forward)


def _searched_attention(
    attention: ConfigReader, config: ConfigReader, hidden: int, heads: int
) -> tuple[LayerKind, int]:
    """What an attention stores, and its parameters; a linear layer in its place stores nothing."""
    group = attention.optional_integer("n_heads_in_group")
    window = attention.optional_integer("window_length")
    num_sinks = attention.integer("num_sink_tokens", default=0, minimum=0)
    # how the sinks are rotated and prefilled, which stores the same rows
    attention.ignore("unshifted_sink", "use_prefill_window_in_sink_attention")
    bias = config.flag("attention_bias", default=False)
    if attention.flag("no_op", default=False):
        return NoCache(), 0
    if attention.flag("replace_with_linear", default=False):
        return NoCache(), linear(hidden, hidden, bias)
    if group is None:
        attention.missing("n_heads_in_group")
    if heads % group:
        attention.wrong("n_heads_in_group", f"{group} does not divide the {heads} attention heads")
    shape = _shape(config, hidden, heads, heads // group)
    if window is None:
        return headed_kind(shape), shape.parameters()
    sliding = SlidingWindow(
        num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim, window=window, num_sink_tokens=num_sinks
    )
    return sliding, shape.parameters()


def _searched_feed_forward(ffn: ConfigReader, hidden: int, bias: bool) -> FeedForward:
    multiplier = ffn.number("ffn_mult", default=0)
    width = ffn.optional_integer("intermediate_size")
    if ffn.flag("no_op", default=False):
        return FeedForward()
    if ffn.flag("replace_with_linear", default=False):
        return FeedForward(mlp=linear(hidden, hidden, bias))
    if width is None and not multiplier:
        ffn.missing("ffn_mult", "intermediate_size")
    return dense_feed_forward(hidden, width or round_up(int(2 * multiplier * hidden / 3), _ROUNDING), bias)


def _grouped_blocks(config: ConfigReader, hidden: int, heads: int, num_layers: int) -> list[Block]:
    """DeciLM-7B: ordinary layers, each with its own number of key-value heads."""
    kv_heads = config.integers("num_key_value_heads_per_layer", minimum=1)
    if kv_heads is None:
        config.missing("block_configs", "num_key_value_heads_per_layer")
    config.ignore("num_key_value_heads")
    check_length(config, "num_key_value_heads_per_layer", kv_heads, num_layers)
    feed_forward = dense_feed_forward(
        hidden, config.integer("intermediate_size"), config.flag("mlp_bias", default=False)
    )
    shapes = [_shape(config, hidden, heads, count) for count in kv_heads]
    return [
        Block(layer=(headed_kind(shape),), attention=shape.parameters(), norms=2 * hidden, feed_forward=feed_forward)
        for shape in shapes
    ]


def _shape(config: ConfigReader, hidden: int, heads: int, kv_heads: int) -> AttentionShape:
    head_dim = config.optional_integer("head_dim")
    if head_dim is None and hidden % heads:
        config.wrong("hidden_size", f"{hidden} is no multiple of the {heads} attention heads, and there is no head_dim")
    bias = config.flag("attention_bias", default=False)
    return AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim or hidden // heads,
        qkv_bias=bias,
        output_bias=bias,
    )


FAMILY = Family(
    name="nemotron_nas",
    model_types=("nemotron-nas", "deci"),
    architectures=("DeciLMForCausalLM",),
    read=_read,
    neutral_keys=frozenset(
        "naive_attention_prefill naive_attention_decode_batched naive_attention_decode_single".split()
    ),
)
