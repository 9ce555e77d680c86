"""Gemma, Gemma 2, VaultGemma and Gemma 3: some sizes are left to the class, and since Gemma 2 most layers slide.

Class defaults and shapes: transformers 5.23 ``models/gemma``, ``gemma2``, ``vaultgemma``, ``gemma3``.
"""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import Block, decoder, dense_feed_forward, read_attention_shape, read_defaulted
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """Class defaults of a member, and what its layers norm.

    ``window`` and ``pattern``  every ``pattern``-th layer is full; None for a model without windows
    ``num_norms``               norms of the residual width per layer
    ``norms_queries``           queries and keys are normed per head
    """

    num_heads: int
    num_kv_heads: int
    max_context_tokens: int
    vocab_size: int = 256_000
    window: int | None = None
    pattern: int | None = None
    num_norms: int = 4
    norms_queries: bool = False


_TRAITS = {
    "gemma": _Traits(num_heads=16, num_kv_heads=16, max_context_tokens=8192, num_norms=2),
    "gemma2": _Traits(num_heads=8, num_kv_heads=4, max_context_tokens=8192, window=4096, pattern=2),
    "vaultgemma": _Traits(num_heads=8, num_kv_heads=4, max_context_tokens=8192, window=4096, pattern=2, num_norms=2),
    "gemma3_text": _Traits(
        num_heads=8,
        num_kv_heads=4,
        max_context_tokens=131_072,
        vocab_size=262_208,
        window=4096,
        pattern=6,
        norms_queries=True,
    ),
}

_HEAD_DIM = 256
"""Every Gemma class's default width of a head."""


def _read(config: ConfigReader) -> Architecture:
    traits = _TRAITS.get(config.text("model_type", default="gemma3_text"), _TRAITS["gemma3_text"])
    _complete(config, traits)
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, qkv_bias=bias, output_bias=bias)
    num_layers = config.integer("num_hidden_layers")
    norms = traits.num_norms * shape.hidden_size + (2 * shape.head_dim if traits.norms_queries else 0)
    feed = dense_feed_forward(shape.hidden_size, config.integer("intermediate_size"))
    blocks = [
        Block(layer=(headed_kind(shape, window),), attention=shape.parameters(), norms=norms, feed_forward=feed)
        for window in _read_windows(config, traits, num_layers)
    ]
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads, tied=True)


def _complete(config: ConfigReader, traits: _Traits) -> None:
    """Fill in what the published files leave to the class (Gemma 3 4B states neither heads nor vocabulary)."""
    defaults = {
        "num_attention_heads": traits.num_heads,
        "num_key_value_heads": traits.num_kv_heads,
        "head_dim": _HEAD_DIM,
        "vocab_size": traits.vocab_size,
        "max_position_embeddings": traits.max_context_tokens,
    }
    config.complete({name: read_defaulted(config, name, default) for name, default in defaults.items()})


def _read_windows(config: ConfigReader, traits: _Traits, num_layers: int) -> list[int | None]:
    if config.flag("use_bidirectional_attention", default=False):
        config.wrong("use_bidirectional_attention", "is true: an embedding model keeps no KV cache")
    if traits.window is None:
        return [None] * num_layers
    config.ignore("sliding_window_size")  # the same number again
    if not config.has("layer_types", "sliding_window_pattern", "_sliding_window_pattern"):
        config.complete({"sliding_window_pattern": traits.pattern})  # the same in every model of its generation
    return read_windows(config, num_layers, default_window=traits.window)


FAMILY = Family(
    name="gemma",
    model_types=tuple(_TRAITS),
    architectures=("GemmaForCausalLM", "Gemma2ForCausalLM", "VaultGemmaForCausalLM", "Gemma3ForCausalLM"),
    read=_read,
)
