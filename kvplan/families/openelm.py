"""OpenELM: every layer has its own number of heads and its own feed-forward width (Apple, arXiv 2404.14619).

Key names, shapes and rounding: Apple's own ``configuration_openelm.py`` and ``modeling_openelm.py``.
"""

from __future__ import annotations

import math

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import Block, check_length, decoder, dense_feed_forward, plain_feed_forward
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    hidden = config.integer("model_dim")
    num_layers = config.integer("num_transformer_layers")
    head_dim = config.integer("head_dim")
    heads = _per_layer(config, "num_query_heads", num_layers)
    kv_heads = _per_layer(config, "num_kv_heads", num_layers)
    widths = _read_widths(config, hidden, num_layers)
    make = dense_feed_forward if config.flag("ffn_with_glu", default=True) else plain_feed_forward
    head_norms = 2 * head_dim if config.flag("normalize_qk_projections", default=True) else 0
    blocks = []
    for layer_heads, layer_kv_heads, width in zip(heads, kv_heads, widths):
        shape = AttentionShape(
            hidden_size=hidden, num_heads=layer_heads, num_kv_heads=layer_kv_heads, head_dim=head_dim
        )
        block = Block(
            layer=(headed_kind(shape),),
            attention=shape.parameters(),
            norms=2 * hidden + head_norms,
            feed_forward=make(hidden, width),
        )
        blocks.append(block)
    config.complete({"tie_word_embeddings": config.flag("share_input_output_layers", default=True)})
    return decoder(
        config,
        blocks,
        hidden_size=hidden,
        num_heads=max(heads),
        context_keys=("max_context_length", "max_position_embeddings"),
    )


def _per_layer(config: ConfigReader, name: str, num_layers: int) -> list[int]:
    numbers = config.integers(name, minimum=1)
    if numbers is None:
        config.missing(name)
    check_length(config, name, numbers, num_layers)
    return numbers


def _read_widths(config: ConfigReader, hidden: int, num_layers: int) -> list[int]:
    """``ffn_multipliers`` x hidden, rounded to the nearest multiple of ``ffn_dim_divisor`` and never below 90 %."""
    divisor = config.integer("ffn_dim_divisor", default=256)
    multipliers = config.value("ffn_multipliers")
    if not isinstance(multipliers, list) or not all(_is_multiplier(item) for item in multipliers):
        config.wrong("ffn_multipliers", "must be a list of one number per layer")
    check_length(config, "ffn_multipliers", multipliers, num_layers)
    return [_round_width(multiplier * hidden, divisor) for multiplier in multipliers]


def _is_multiplier(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _round_width(width: float, divisor: int) -> int:
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


FAMILY = Family(
    name="openelm",
    model_types=("openelm",),
    architectures=("OpenELMForCausalLM",),
    read=_read,
    # they generate the per-layer lists, which the files carry spelled out
    neutral_keys=frozenset({"num_gqa_groups", "qkv_multipliers", "normalization_layer_name"}),
)
