"""RecurrentGemma (Griffin, arXiv 2402.19427): two RG-LRU layers for every layer of sliding-window attention."""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import Block, FeedForward, decoder, dense_feed_forward
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import exact_quotient, integer_or_default
from kvplan.core.mixer_counting import short_convolution
from kvplan.core.model import Architecture
from kvplan.core.recurrent import RgLru

_PATTERN = ("recurrent", "recurrent", "attention")


def read(config: ConfigReader) -> Architecture:
    """``block_types`` repeats over the layers; the stated MLP width counts gate and up together."""
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    num_heads = config.integer("num_attention_heads")
    shape = AttentionShape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=config.integer("num_key_value_heads", default=num_heads),
        head_dim=config.integer(
            "head_dim", default=exact_quotient(config, hidden_size, num_heads, "num_attention_heads")
        ),
        qkv_bias=config.flag("attention_bias", default=False),
        output_bias=True,
    )
    window = integer_or_default(config, 2048, "RecurrentGemmaConfig", "attention_window_size", "sliding_window")
    feed = dense_feed_forward(hidden_size, config.integer("intermediate_size") // 2, bias=True)
    attention = Block(
        layer=(headed_kind(shape, window),),
        attention=shape.parameters(),
        norms=2 * hidden_size,
        feed_forward=feed,
    )
    blocks = {"attention": attention, "recurrent": _recurrent_block(config, hidden_size, num_heads, feed)}
    pattern = config.texts("block_types", "_block_types", allowed=("recurrent", "attention")) or _PATTERN
    return decoder(
        config,
        [blocks[pattern[layer % len(pattern)]] for layer in range(num_layers)],
        hidden_size=hidden_size,
        num_heads=num_heads,
        tied=True,
    )


def _recurrent_block(config: ConfigReader, hidden_size: int, num_heads: int, feed: FeedForward) -> Block:
    """Two input branches, a convolution, the gates of the unit (block-diagonal, one block per head), an output."""
    width = config.integer("lru_width", default=hidden_size)
    kind = RgLru(width=width, conv_kernel=integer_or_default(config, 4, "RecurrentGemmaConfig", "conv1d_width"))
    gate = num_heads * linear(width // num_heads, width // num_heads, bias=True)
    mixer = (
        2 * linear(hidden_size, width, bias=True)
        + short_convolution(width, kind.conv_kernel, bias=True)
        + width
        + 2 * gate
        + linear(width, hidden_size, bias=True)
    )
    return Block(layer=(kind,), attention=0, state=mixer, norms=2 * hidden_size, feed_forward=feed)


FAMILY = Family(
    name="recurrent_gemma",
    model_types=("recurrent_gemma",),
    architectures=("RecurrentGemmaForCausalLM",),
    read=read,
    neutral_keys=frozenset({"embeddings_scale_by_sqrt_dim"}),
)
