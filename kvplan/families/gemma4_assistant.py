"""Gemma 4's draft assistants: small models that read the cache of the model they draft for and store nothing.

Shapes: transformers 5.23 ``models/gemma4_assistant``.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention import Shared
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture

_TEXT_TYPES = {"gemma4_assistant": "gemma4_text", "gemma4_unified_assistant": "gemma4_unified_text"}


def _read(config: ConfigReader) -> Architecture:
    model_type = _TEXT_TYPES.get(config.text("model_type", default="gemma4_assistant"), "gemma4_text")
    text = config.text_model("text_config", model_type=model_type)
    backbone = config.integer("backbone_hidden_size")
    centroids = config.integer("num_centroids", default=2048)
    config.ignore("centroid_intermediate_top_k")
    projections = linear(2 * backbone, text.hidden_size) + linear(text.hidden_size, backbone)
    if config.flag("use_ordered_embeddings", default=False):
        projections += linear(text.hidden_size, centroids)
    config.note("the assistant reads the cache of the model it drafts for and stores none of its own")
    parameters = text.parameters and replace(text.parameters, other=text.parameters.other + projections)
    return replace(text, layers=((Shared(),),) * text.num_layers, parameters=parameters)


FAMILY = Family(
    name="gemma4_assistant",
    model_types=tuple(_TEXT_TYPES),
    architectures=("Gemma4AssistantForCausalLM",),
    read=_read,
)
