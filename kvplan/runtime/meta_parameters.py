"""Exact parameter counts: the model's own transformers code, built on the meta device (no memory, no weights)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from kvplan.core.errors import UnsupportedError
from kvplan.core.model import Parameters

_PART_OF_NAME: tuple[tuple[str, str], ...] = (
    # First match wins. Towers come first: a vision tower has attention, norms and an MLP of its own.
    (r"(^|\.)(vision\w*|visual\w*|audio\w*|image_newline|multi_modal\w*|multimodal\w*|mm_\w+|embed_vision|embed_audio"
     r"|connector|aligner|patch_merger|mlp1|resampler|resampler_model)(\.|$)", "towers"),
    (r"(^|\.)encoder\.", "towers"),
    (r"(^|\.)(lm_head|embed_out|output_head|proj_out)(\.|$)", "output_head"),
    (r"embed|(^|\.)wte\.|(^|\.)wpe\.|word_embeddings|(^|\.)shared\.", "embedding"),
    (r"shared_expert|shared_mlp|shared_experts", "mlp"),
    (r"\.experts\.|block_sparse_moe\.(input|output)_linear", "experts"),
    (r"router|\.gate\.(weight|e_score_correction_bias|tid2eid)$|e_score_correction_bias|expert_bias", "routers"),
    (r"(^|\.)(mamba|mixer|linear_attn|temporal_block|recurrent\w*|short_conv|conv)(\.|$)|\.attention\.time_", "state"),
    (r"norm|(^|\.)ln_\w+|layernorm", "norms"),
    (r"self_attn|self_attention|attention|attn|SelfAttention|EncDecAttention|indexer|compressor", "attention"),
    (r"mlp|feed_forward|ffn|fc1|fc2|DenseReluDense|dense_h_to_4h|dense_4h_to_h", "mlp"),
)


def count_parameters(values: Mapping[str, Any]) -> Parameters:
    """The exact counts of the model that a ``config.json`` describes. Raises UnsupportedError without a class for it.

    A tied output head counts once. ``active`` is filled for mixtures of experts from the experts chosen per token.
    """
    model = build_on_meta(values)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():  # named_parameters yields a tied tensor once
        counts[part_of(name)] += parameter.numel()
    return Parameters(**counts, certainty="exact")


def build_on_meta(values: Mapping[str, Any]) -> torch.nn.Module:
    """The model's own class on the meta device. Raises UnsupportedError."""
    try:
        config = transformers.AutoConfig.for_model(**dict(values))
        model_class = _model_class(values, config)
        with torch.device("meta"):
            model: torch.nn.Module = model_class._from_config(config)
    except Exception as error:  # transformers raises anything at all for a config it does not like
        raise UnsupportedError(
            f"transformers {transformers.__version__} cannot build this model: {type(error).__name__}: {error}"
        ) from None
    return model


def part_of(name: str) -> str:
    """The field of Parameters that a weight's name belongs to."""
    for pattern, part in _PART_OF_NAME:
        if re.search(pattern, name):
            return part
    return "other"


def _model_class(values: Mapping[str, Any], config: Any) -> Any:
    for architecture in values.get("architectures") or ():
        if hasattr(transformers, architecture):
            return getattr(transformers, architecture)
    for auto_class in (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForSeq2SeqLM,
    ):
        if type(config) in auto_class._model_mapping:
            return auto_class._model_mapping[type(config)]
    raise UnsupportedError(f"transformers {transformers.__version__} has no language model for {type(config).__name__}")
