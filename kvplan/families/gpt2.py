"""GPT, GPT-2 and GPT-Neo: learned positions, LayerNorm, ungated feed-forward, tied output head.

GPT-Neo alternates global layers with local ones of ``window_size`` tokens. Shapes and defaults: transformers 5.23
``models/openai``, ``models/gpt2`` and ``models/gpt_neo``.
"""

from __future__ import annotations

from kvplan.core.classic_decoder import (
    CONTEXT,
    LAYERS,
    classic_blocks,
    read_classic_shape,
    read_full_windows,
    read_plain_mlp,
)
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import check_length, decoder
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("gpt2", "gpt_neo", "openai-gpt")

_CLASSES = {
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoForCausalLM": "gpt_neo",
    "OpenAIGPTLMHeadModel": "openai-gpt",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    model_type = read_model_type(config, _MODEL_TYPES, _CLASSES)
    if config.flag("add_cross_attention", default=False):
        config.wrong("add_cross_attention", "must be false: only decoders on their own are known")
    is_neo = model_type == "gpt_neo"
    shape = read_classic_shape(config, qkv_bias=not is_neo)
    windows = _read_neo_windows(config) if is_neo else read_full_windows(config)
    return decoder(
        config,
        classic_blocks(shape, read_plain_mlp(config, shape.hidden_size), windows),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=0 if model_type == "openai-gpt" else 2 * shape.hidden_size,
        num_positions=config.integer(*CONTEXT),
        context_keys=CONTEXT,
    )


_NEO_TYPES = ("global", "local")


def _read_neo_windows(config: ConfigReader) -> list[int | None]:
    """``attention_types`` repeats lists of names ([[["global", "local"], 12]]); ``attention_layers`` spells it out."""
    num_layers = config.integer(*LAYERS)
    window = config.integer("window_size", default=256)
    names = (
        _spell_out(config) if config.has("attention_types") else config.texts("attention_layers", allowed=_NEO_TYPES)
    )
    config.ignore("attention_layers")
    if names is None:
        config.missing("attention_types")
    check_length(config, "attention_types", names, num_layers)
    config.note("GPT-Neo's local layers need their window only; transformers keeps every token for them all the same")
    return [window if name == "local" else None for name in names]


def _spell_out(config: ConfigReader) -> list[str]:
    names: list[str] = []
    for entry in config.value("attention_types"):
        match entry:
            case [[*repeated], int(times)] if (
                times > 0 and all(isinstance(name, str) for name in repeated) and set(repeated) <= set(_NEO_TYPES)
            ):
                names += times * repeated
            case _:
                config.wrong("attention_types", f"has the unknown entry {entry!r}")
    return names


FAMILY = Family(
    name="gpt2",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    neutral_keys=frozenset({"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"}),
)
