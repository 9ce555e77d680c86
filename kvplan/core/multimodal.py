"""What all multimodal wrappers share: they read a nested language model and add their towers' parameters to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kvplan.core.config_reader import ConfigReader
from kvplan.core.model import Architecture

_SEVEN_B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_QWEN2 = {"num_key_value_heads": 32, "intermediate_size": 22016, "vocab_size": 151936}
_QWEN2_VL = {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 29568,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
}

TEXT_CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_SEVEN_B, "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048},
    "mistral": {
        **_SEVEN_B,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
        "max_position_embeddings": 131072,
    },
    "qwen2": {**_SEVEN_B, **_QWEN2, "max_position_embeddings": 32768},
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3_vl_text": {**_SEVEN_B, **_QWEN2, "head_dim": 128, "max_position_embeddings": 128000},
}
"""Sizes that a nested config may leave out, for it is saved as the difference from its class (transformers 5.23)."""


def text_model(config: ConfigReader, *names: str, model_type: str, reads_as: str | None = None) -> Architecture:
    """The language model nested under the first present of ``names``, as transformers completes it.

    ``model_type`` is what a nested config is that does not say so itself; ``reads_as`` is what it is whatever it says,
    for types that are another's layers under a name of their own. Sizes it leaves out are its class's defaults, and a
    stated ``tie_word_embeddings`` of the wrapper holds unless the nested config has its own.
    """
    nested = next((section for name in names if (section := config.section(name)) is not None), None)
    if nested is None:
        config.missing(*names)
    # Some files repeat the nested keys at the top level (DeepSeek-OCR); a repeat that agrees says nothing new.
    config.ignore(*(key for key, value in nested.values.items() if config.values.get(key) == value))
    kind = nested.values.get("model_type") or model_type
    absent = {key: size for key, size in TEXT_CLASS_DEFAULTS.get(str(kind), {}).items() if key not in nested.values}
    if absent:
        taken = ", ".join(f"{key} {size}" for key, size in absent.items())
        config.note(f"{nested.path[:-1]} does not state all sizes; transformers 5.23's class defaults hold: {taken}")
    tied = config.value("tie_word_embeddings")
    nested.complete({**absent, **({} if tied is None else {"tie_word_embeddings": tied})})
    return nested.text_model_here(reads_as) if reads_as else config.text_model(*names, model_type=model_type)


def with_towers(architecture: Architecture, towers: int) -> Architecture:
    """The architecture with ``towers`` parameters of vision and audio towers and their projectors."""
    if architecture.parameters is None:
        return architecture
    return replace(architecture, parameters=replace(architecture.parameters, towers=towers))


def tower_section(config: ConfigReader, *names: str) -> ConfigReader | None:
    """A tower's config, every key of it understood (a tower has no KV cache); None with a note where it is absent."""
    for name in names:
        section = config.section(name)
        if section is not None:
            section.settle()
            return section
    config.note(f"{names[0]} is absent: the parameters of that tower are not counted")
    return None


def stated_size(section: ConfigReader, *names: str, default: int) -> int:
    """A size of a tower; where the file leaves it out, the class default of transformers 5.23, with a note."""
    found = section.optional_integer(*names)
    if found is None:
        section.note(f"{section.path}{names[0]} is not stated: transformers 5.23's class default {default} holds")
        return default
    return found


def side(section: ConfigReader, name: str, default: int) -> int:
    """A side in pixels of an image or patch that is written as one number or as [height, width] of equal sides."""
    if isinstance(section.value(name), list):
        sides = section.integers(name, minimum=1) or [default]
        if len(set(sides)) != 1:
            section.wrong(name, f"must have equal sides, not {sides}")
        return sides[0]
    return stated_size(section, name, default=default)
