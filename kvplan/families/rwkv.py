"""RWKV-4 (arXiv 2305.13048), RWKV-5 and 6 (arXiv 2404.05892) and RWKV-7 (arXiv 2503.14456): state only.

RWKV-4 keeps, per layer, two token-shift vectors in the model dtype and three fp32 vectors of the attention width
(numerator, denominator, maximum: transformers 5.23 ``RwkvModel``). Later versions keep two shift vectors and one
matrix per head in fp32. ``context_length`` is a training length that the recurrence does not bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear, plain_mlp
from kvplan.core.decoder import Block, FeedForward, decoder
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import exact_quotient
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Rwkv


def read(config: ConfigReader) -> Architecture:
    """One block of time mixing and one of channel mixing per layer, as the version has them."""
    names = {config.text("model_type", default=""), *(config.texts("architectures") or [])}
    by_name: dict[str, Callable[[ConfigReader, int], Block]] = {
        "rwkv5": _read_rwkv5,
        "Rwkv5ForCausalLM": _read_rwkv5,
        "rwkv6": _read_rwkv6,
        "Rwkv6ForCausalLM": _read_rwkv6,
        "rwkv7": _read_rwkv7,
        "RWKV7ForCausalLM": _read_rwkv7,
    }
    reader = next((by_name[name] for name in sorted(names) if name in by_name), _read_rwkv4)
    hidden_size = config.integer("hidden_size")
    block = reader(config, hidden_size)
    architecture = decoder(
        config,
        [block] * config.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        num_heads=None,
        final_norm=2 * hidden_size,
        other=2 * hidden_size - (_absent_value_adapter(config, hidden_size) if reader is _read_rwkv7 else 0),
    )
    return replace(architecture, max_context_tokens=None)


def _block(kind: Rwkv, hidden_size: int, time_mixing: int, channel_mixing: int, intermediate_size: int) -> Block:
    """Two layer norms with bias; a third one follows the embedding (``other`` in ``read``)."""
    feed = FeedForward(mlp=channel_mixing, intermediate_size=intermediate_size, gated=False)
    return Block(layer=(kind,), attention=0, state=time_mixing, norms=4 * hidden_size, feed_forward=feed)


def _channel_mixing(hidden_size: int, intermediate_size: int) -> int:
    """Key, value and receptance projections with two mixing vectors (versions 4 to 6)."""
    return plain_mlp(hidden_size, intermediate_size) + linear(hidden_size, hidden_size) + 2 * hidden_size


def _read_rwkv4(config: ConfigReader, hidden_size: int) -> Block:
    width = config.integer("attention_hidden_size", default=hidden_size)
    kind = Rwkv(hidden_size=hidden_size, num_heads=3, head_dim=width, state_columns=1)
    time_mixing = 3 * linear(hidden_size, width) + linear(width, hidden_size) + 2 * width + 3 * hidden_size
    intermediate_size = config.integer("intermediate_size", default=4 * hidden_size)
    mixing = _channel_mixing(hidden_size, intermediate_size)
    return _block(kind, hidden_size, time_mixing, mixing, intermediate_size)


def _read_matrix_state(config: ConfigReader, hidden_size: int) -> tuple[Rwkv, int]:
    width = config.integer("attention_hidden_size", default=hidden_size)
    head_dim = config.integer("head_size", default=64)
    num_heads = exact_quotient(config, width, head_dim, "head_size")
    config.ignore("num_attention_heads", "num_key_value_heads")  # the code divides the width by the head size
    return Rwkv(hidden_size=hidden_size, num_heads=num_heads, head_dim=head_dim, state_columns=head_dim), width


def _read_rwkv5(config: ConfigReader, hidden_size: int) -> Block:
    """Version 5.2: receptance, key, value, gate and output, decay and bonus per channel, a group norm."""
    kind, width = _read_matrix_state(config, hidden_size)
    time_mixing = 4 * linear(hidden_size, width) + linear(width, hidden_size) + 4 * hidden_size + 4 * width
    intermediate_size = config.integer("intermediate_size", default=_three_and_a_half(hidden_size))
    mixing = _channel_mixing(hidden_size, intermediate_size)
    return _block(kind, hidden_size, time_mixing, mixing, intermediate_size)


def _read_rwkv6(config: ConfigReader, hidden_size: int) -> Block:
    """Version 6 adds low-rank, data-dependent mixing and decay (ranks of 32 and 64, doubled at width 4096)."""
    kind, width = _read_matrix_state(config, hidden_size)
    doubling = 2 if hidden_size == 4096 else 1
    mix_rank, decay_rank = 32 * doubling, 64 * doubling
    time_mixing = (
        4 * linear(hidden_size, width)
        + linear(width, hidden_size)
        + 6 * hidden_size
        + 2 * linear(hidden_size, 5 * mix_rank)
        + 2 * linear(width, decay_rank)
        + 4 * width
    )
    intermediate_size = config.integer("intermediate_size", default=_three_and_a_half(hidden_size))
    mixing = _channel_mixing(hidden_size, intermediate_size)
    return _block(kind, hidden_size, time_mixing, mixing, intermediate_size)


def _three_and_a_half(hidden_size: int) -> int:
    """The channel-mixing width of versions 5 and 6 where the config leaves it open."""
    return 7 * hidden_size // 2 // 32 * 32


def _read_rwkv7(config: ConfigReader, hidden_size: int) -> Block:
    """The flash-linear-attention layout: ``head_dim`` key and value columns per head, four low-rank adapters."""
    head_dim = config.integer("head_dim", default=64)
    num_heads = config.integer("num_heads", default=exact_quotient(config, hidden_size, head_dim, "head_dim"))
    value_width = _read_value_width(config, hidden_size)
    columns = exact_quotient(config, value_width, num_heads, "num_heads")
    kind = Rwkv(hidden_size=hidden_size, num_heads=num_heads, head_dim=head_dim, state_columns=columns)
    key_width = num_heads * head_dim
    decay, gate, learning = (config.integer(f"{name}_low_rank_dim") for name in ("decay", "gate", "a"))
    time_mixing = (
        2 * linear(hidden_size, key_width)
        + linear(hidden_size, value_width)
        + linear(value_width, hidden_size)
        + 6 * hidden_size
        + 3 * key_width
        + linear(hidden_size, decay)
        + linear(decay, key_width, bias=True)
        + linear(hidden_size, learning)
        + linear(learning, key_width, bias=True)
        + _value_adapter(config, hidden_size, value_width)
        + linear(hidden_size, gate)
        + linear(gate, value_width)
        + 2 * value_width
    )
    ratio = config.number("hidden_ratio", default=4.0)
    intermediate_size = config.integer("intermediate_size", default=-(-int(ratio * hidden_size) // 32) * 32)
    mixing = plain_mlp(hidden_size, intermediate_size) + hidden_size
    return _block(kind, hidden_size, time_mixing, mixing, intermediate_size)


def _read_value_width(config: ConfigReader, hidden_size: int) -> int:
    """``value_dim`` is one number or one per layer; published models have the same in all of them."""
    if not isinstance(config.value("value_dim"), list):
        return config.integer("value_dim", default=hidden_size)
    widths = config.integers("value_dim", minimum=1) or []
    if len(set(widths)) != 1:
        config.wrong("value_dim", "differs between layers, which no published RWKV-7 does")
    return widths[0]


def _value_adapter(config: ConfigReader, hidden_size: int, value_width: int) -> int:
    rank = config.integer("v_low_rank_dim")
    return linear(hidden_size, rank) + linear(rank, value_width, bias=True)


def _absent_value_adapter(config: ConfigReader, hidden_size: int) -> int:
    """The first layer defines the values that later layers mix in, so it has no adapter for them."""
    return _value_adapter(config, hidden_size, _read_value_width(config, hidden_size))


FAMILY = Family(
    name="rwkv",
    model_types=("rwkv", "rwkv5", "rwkv6", "rwkv7"),
    architectures=("RwkvForCausalLM", "Rwkv5ForCausalLM", "Rwkv6ForCausalLM", "RWKV7ForCausalLM"),
    read=read,
    neutral_keys=frozenset({"head_size_divisor", "attn_mode", "rescale_every", "context_length", "rescale_layer"}),
)
