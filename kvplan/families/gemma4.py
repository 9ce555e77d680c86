"""Gemma 4's text models: wide global heads, shared caches of the last layers, per-layer inputs, experts.

Full layers have their own head width and, where keys double as values, their own number of KV heads; both are still
stored. Class defaults and shapes: transformers 5.23 ``models/gemma4`` and ``gemma4_unified``.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention import Shared
from kvplan.core.attention_layout import FULL, SLIDING, headed_kind, read_layer_types
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    dense_feed_forward,
    mixture_feed_forward,
    read_attention_shape,
    read_defaulted,
    read_mixture,
)
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.kv_sharing import query_and_output, shared_sources
from kvplan.core.mixture import MixtureShape
from kvplan.core.model import Architecture

_WINDOWS = {"gemma4_text": 512, "gemma4_unified_text": 1024}
"""Class default of the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """What builds the blocks of one model.

    ``sliding`` and ``full``  attention of either layer type
    ``keys_are_values``       full layers have no value projection
    ``input_size``            width of the per-layer inputs, 0 without
    ``dense_size``            intermediate size; ``shared_scale`` times that in layers that share a cache
    """

    sliding: AttentionShape
    full: AttentionShape
    window: int
    keys_are_values: bool
    input_size: int
    dense_size: int
    shared_scale: int
    experts: MixtureShape | None

    def block(self, layer_type: str, shares: bool, source: int | None) -> Block:
        """One layer; ``source`` is the layer whose cache it reads if it ``shares`` one."""
        shape = self.full if layer_type == FULL else self.sliding
        kind = headed_kind(shape, None if layer_type == FULL else self.window)
        hidden = shape.hidden_size
        return Block(
            layer=(Shared(source_layer=source) if shares else kind,),
            attention=self._attention(shape, layer_type, shares),
            norms=self._norms(shape, shares),
            feed_forward=self._feed_forward(hidden, self.shared_scale if shares else 1),
            other=2 * linear(hidden, self.input_size),
        )

    def _attention(self, shape: AttentionShape, layer_type: str, shares: bool) -> int:
        if shares:
            return query_and_output(shape)
        if self.keys_are_values and layer_type == FULL:
            return shape.parameters() - linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, shape.qkv_bias)
        return shape.parameters()

    def _norms(self, shape: AttentionShape, shares: bool) -> int:
        """Four of the residual width, one more for per-layer inputs, three for experts; queries' and keys' per head."""
        per_layer = 4 + (1 if self.input_size else 0) + (3 if self.experts else 0)
        return per_layer * shape.hidden_size + (1 if shares else 2) * shape.head_dim

    def _feed_forward(self, hidden: int, scale: int) -> FeedForward:
        """The dense block and, beside it, the experts; the router has a scale per input and one per expert."""
        dense = dense_feed_forward(hidden, scale * self.dense_size)
        if self.experts is None:
            return dense
        router = linear(hidden, self.experts.num_experts) + hidden + self.experts.num_experts
        mixture = mixture_feed_forward(self.experts)
        return replace(mixture, mlp=dense.mlp, intermediate_size=dense.intermediate_size, router=router)


def _read(config: ConfigReader) -> Architecture:
    if config.value("use_bidirectional_attention") == "all":
        config.wrong("use_bidirectional_attention", "is 'all': an embedding model keeps no KV cache")
    num_layers = config.integer("num_hidden_layers")
    types = _read_types(config, num_layers)
    sources = shared_sources(config, types, config.integer("num_kv_shared_layers", default=0, minimum=0))
    builder = _read_blocks(config, types)
    blocks = [builder.block(entry, layer in sources, sources.get(layer)) for layer, entry in enumerate(types)]
    hidden = builder.full.hidden_size
    return decoder(
        config,
        blocks,
        hidden_size=hidden,
        num_heads=builder.full.num_heads,
        tied=True,
        final_norm=hidden + builder.input_size,
        other=_per_layer_inputs(config, num_layers, hidden, builder.input_size),
    )


def _read_types(config: ConfigReader, num_layers: int) -> list[str]:
    """Stated types, or every sixth layer full; the last layer is full whatever the file says (the class forces it)."""
    types = read_layer_types(config, num_layers) or [
        SLIDING if (layer + 1) % 6 else FULL for layer in range(num_layers)
    ]
    return [*types[:-1], FULL]


def _read_blocks(config: ConfigReader, types: list[str]) -> _Blocks:
    config.complete({"num_attention_heads": read_defaulted(config, "num_attention_heads", 8)})
    model_type = str(config.values.get("model_type", "gemma4_text"))
    bias = config.flag("attention_bias", default=False)
    sliding = read_attention_shape(config, num_kv_heads=4, head_dim=256, qkv_bias=bias, output_bias=bias)
    keys_are_values = config.flag("attention_k_eq_v", default=False)
    return _Blocks(
        sliding=sliding,
        full=_read_full_shape(config, sliding, keys_are_values, types),
        window=read_defaulted(config, "sliding_window", _WINDOWS.get(model_type, 512))
        or config.missing("sliding_window"),
        keys_are_values=keys_are_values,
        input_size=0 if model_type == "gemma4_unified_text" else _read_input_size(config),
        dense_size=config.integer("intermediate_size"),
        shared_scale=2 if config.flag("use_double_wide_mlp", default=False) else 1,
        experts=_read_experts(config, sliding.hidden_size),
    )


def _read_full_shape(
    config: ConfigReader, sliding: AttentionShape, keys_are_values: bool, types: list[str]
) -> AttentionShape:
    """The full layers' heads: ``global_head_dim`` and, only where keys double as values, their own KV heads.

    Files saved by transformers 5.2x hold them in ``per_layer_config``, a mapping of layer numbers to sizes.
    """
    head_dim = config.integer("global_head_dim", default=512)
    kv_heads = config.optional_integer("num_global_key_value_heads") if keys_are_values else None
    config.ignore("num_global_key_value_heads")  # without effect unless keys double as values
    per_layer = config.section("per_layer_config")
    if per_layer is None:
        return replace(sliding, head_dim=head_dim, num_kv_heads=kv_heads or sliding.num_kv_heads)
    names = {int(name): name for name in per_layer.values if name.isdigit()}
    full = {layer for layer, entry in enumerate(types) if entry == FULL}
    shapes = {_override(per_layer, names[layer], sliding) for layer in full & set(names)}
    if len(names) != len(per_layer.values) or set(names) != full or len(shapes) != 1:
        config.wrong("per_layer_config", "must give every full layer, and no other, the same heads")
    return shapes.pop()


def _override(per_layer: ConfigReader, name: str, shape: AttentionShape) -> AttentionShape:
    section = per_layer.section(name)
    if section is None:
        return shape
    return replace(
        shape,
        head_dim=section.integer("head_dim", default=shape.head_dim),
        num_kv_heads=section.integer("num_key_value_heads", default=shape.num_kv_heads),
    )


def _read_input_size(config: ConfigReader) -> int:
    if "hidden_size_per_layer_input" not in config.values:
        return read_defaulted(config, "hidden_size_per_layer_input", 256) or 0
    return config.optional_integer("hidden_size_per_layer_input", minimum=0) or 0


def _read_experts(config: ConfigReader, hidden_size: int) -> MixtureShape | None:
    if not config.flag("enable_moe_block", default=False):
        return None
    size = config.integer("moe_intermediate_size", "expert_intermediate_size")
    return read_mixture(
        config, hidden_size, size, num_experts=("num_experts",), num_active=("top_k_experts", "num_experts_per_tok")
    )


def _per_layer_inputs(config: ConfigReader, num_layers: int, hidden: int, input_size: int) -> int:
    """A second embedding with a row for every layer, and the projection of the first into the same space."""
    vocab_size = config.optional_integer("vocab_size_per_layer_input", minimum=0)
    if not input_size:
        return 0
    rows = 262_144 if vocab_size is None else vocab_size
    return num_layers * input_size * (rows + hidden)


FAMILY = Family(
    name="gemma4",
    model_types=("gemma4_text", "gemma4_unified_text"),
    architectures=("Gemma4ForCausalLM",),
    read=_read,
)
