"""Phi-4-mini-flash (SambaY, arXiv 2507.06607): a self-decoder of Mamba and attention, then layers that share.

Even layers are Mamba-1, odd ones differential attention. The layer after the middle is full attention, and the
odd layers behind it read its keys and values; the even ones behind it read the middle Mamba layer's output of the
same token, which nothing keeps.
"""

from __future__ import annotations

from kvplan.core.attention import NoCache, Shared
from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import Block, FeedForward, decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import integer_or_default, read_dt_rank
from kvplan.core.mixer_counting import mamba1_mixer
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1


def read(config: ConfigReader) -> Architecture:
    """Layers by their number: sliding below the middle, one full layer behind it, sharing after that."""
    num_layers = config.integer("num_hidden_layers")
    if config.integer("mb_per_layer", default=2) != 2 or num_layers % 4:
        config.wrong("mb_per_layer", "must be 2, with a depth that four divides: other layouts were never published")
    shape = read_attention_shape(config, num_kv_heads=4, qkv_bias=True, output_bias=True)
    window = _read_window(config, num_layers)
    feed = dense_feed_forward(
        shape.hidden_size, config.integer("intermediate_size"), config.flag("mlp_bias", default=False)
    )
    mamba, mixer = _read_mamba(config, shape.hidden_size)
    middle = num_layers // 2
    blocks = []
    for layer in range(num_layers):
        shares = layer >= middle + 2
        if layer % 2 == 0:
            blocks.append(_mamba_block(shape.hidden_size, mamba, mixer, feed, shares=shares))
        else:
            blocks.append(_attention_block(shape, window if layer < middle else None, feed, middle + 1, layer))
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=2 * shape.hidden_size,
        head_bias=config.flag("lm_head_bias", default=False),
    )


def _read_window(config: ConfigReader, num_layers: int) -> int | None:
    """``sliding_window``: a number, or the list per layer that the config class writes back."""
    stated = config.value("sliding_window")
    if not isinstance(stated, list):
        return config.optional_integer("sliding_window")
    window = next((entry for entry in stated if entry is not None), None)
    windowed = [layer < num_layers // 2 and layer % 2 == 1 for layer in range(num_layers)]
    if stated != [window if slides else None for slides in windowed] or not isinstance(window, int):
        config.wrong("sliding_window", "must give the odd layers below the middle, and no others, one window")
    return window


def _read_mamba(config: ConfigReader, hidden_size: int) -> tuple[Mamba1, int]:
    kind = Mamba1(
        intermediate_size=integer_or_default(config, 2, "Phi4FlashConfig", "mamba_expand") * hidden_size,
        state_size=integer_or_default(config, 16, "Phi4FlashConfig", "mamba_d_state"),
        conv_kernel=integer_or_default(config, 4, "Phi4FlashConfig", "mamba_d_conv"),
    )
    mixer = mamba1_mixer(
        kind,
        hidden_size,
        read_dt_rank(config, hidden_size, "mamba_dt_rank"),
        projection_bias=config.flag("mamba_proj_bias", default=False),
        convolution_bias=config.flag("mamba_conv_bias", default=True),
    )
    return kind, mixer


def _mamba_block(hidden_size: int, mamba: Mamba1, mixer: int, feed: FeedForward, *, shares: bool) -> Block:
    """A Mamba layer, or a gated memory unit that only projects in and out."""
    unit = linear(hidden_size, mamba.intermediate_size) + linear(mamba.intermediate_size, hidden_size)
    return Block(
        layer=(NoCache(),) if shares else (mamba,),
        attention=0,
        state=unit if shares else mixer,
        norms=4 * hidden_size,
        feed_forward=feed,
    )


def _attention_block(shape: AttentionShape, window: int | None, feed: FeedForward, source: int, layer: int) -> Block:
    """Differential attention: four lambda vectors and a norm over pairs of heads; a sharing layer has queries only."""
    shares = layer > source
    query = shape.num_heads * shape.head_dim
    projections = shape.parameters()
    if shares:
        projections = linear(shape.hidden_size, query, bias=True) + linear(query, shape.hidden_size, bias=True)
    return Block(
        layer=(Shared(source_layer=source) if shares else headed_kind(shape, window),),
        attention=projections + 6 * shape.head_dim,
        norms=4 * shape.hidden_size,
        feed_forward=feed,
    )


FAMILY = Family(
    name="phi4flash",
    model_types=("phi4flash",),
    architectures=("Phi4FlashForCausalLM",),
    read=read,
    neutral_keys=frozenset({"attention_bias"}),
)
