"""MPT: attention is described in its own section, which may ask for fewer key-value heads.

Shapes: MosaicML's llm-foundry ``models/mpt`` and transformers 5.23 ``models/mpt``. ``no_bias`` leaves the bias out of
norms and projections alike.
"""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind
from kvplan.core.classic_decoder import CONTEXT, read_classic_shape, read_full_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import Block, FeedForward, decoder, dense_feed_forward, plain_feed_forward
from kvplan.core.family import Family
from kvplan.core.model import Architecture

_ATTENTION_KEYS = (
    "attn_impl attn_pdrop attn_uses_sequence_id alibi_bias_max clip_qkv softmax_scale rope rope_theta rope_impl "
    "rope_dail_config rope_hf_config prefix_lm qk_gn fused_qkv model_type"
).split()
"""Keys of ``attn_config`` that do not change what a layer stores."""


def _read(config: ConfigReader) -> Architecture:
    attention = config.section("attn_config") or ConfigReader({}, config.source)
    bias = not config.flag("no_bias", default=True)
    shape = read_classic_shape(config, num_kv_heads=_read_kv_heads(config, attention), qkv_bias=bias, output_bias=bias)
    norm = (2 if bias else 1) * shape.hidden_size
    has_head_norms = attention.flag("qk_ln", default=False)
    kv_width = shape.num_kv_heads * shape.head_dim
    block = Block(
        layer=(headed_kind(shape, _read_window(attention)),),
        attention=shape.parameters(),
        norms=2 * norm + ((2 if bias else 1) * (shape.hidden_size + kv_width) if has_head_norms else 0),
        feed_forward=_read_feed_forward(config, shape.hidden_size, bias),
    )
    has_positions = config.flag("learned_pos_emb", default=True) and not attention.flag("alibi", default=True)
    attention.ignore(*_ATTENTION_KEYS)
    return decoder(
        config,
        len(read_full_windows(config)) * [block],
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=norm,
        num_positions=config.integer(*CONTEXT) if has_positions else 0,
        context_keys=CONTEXT,
    )


def _read_kv_heads(config: ConfigReader, attention: ConfigReader) -> int | None:
    kind = attention.text("attn_type", default="multihead_attention")
    stated = attention.optional_integer("kv_n_heads") or config.optional_integer("kv_n_heads")
    if kind == "multiquery_attention":
        return 1
    if kind == "grouped_query_attention":
        return stated or attention.missing("kv_n_heads")
    if kind != "multihead_attention":
        attention.wrong("attn_type", f"{kind!r} is unknown")
    return None


def _read_window(attention: ConfigReader) -> int | None:
    """llm-foundry's ``sliding_window_size``: -1 means none."""
    size = attention.optional_integer("sliding_window_size", minimum=-1)
    return None if size is None or size < 1 else size


def _read_feed_forward(config: ConfigReader, hidden_size: int, bias: bool) -> FeedForward:
    settings = config.section("ffn_config") or ConfigReader({}, config.source)
    kind = settings.text("ffn_type", default="mptmlp")
    ratio = config.number("expansion_ratio", default=4)
    width = settings.integer("ffn_hidden_size", default=int(ratio * hidden_size))
    settings.settle()
    return (dense_feed_forward if kind == "mptglu" else plain_feed_forward)(hidden_size, width, bias)


FAMILY = Family(
    name="mpt",
    model_types=("mpt",),
    architectures=("MPTForCausalLM", "MptForCausalLM"),
    read=_read,
)
