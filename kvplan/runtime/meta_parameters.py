"""Exact parameter counts: the model's own transformers code, built on the meta device (no memory, no weights)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers

from kvplan.core.errors import UnsupportedError
from kvplan.core.model import Model, Parameters

_PART_OF_NAME: tuple[tuple[str, str], ...] = (
    # First match wins. Towers come first: a vision tower has attention, norms and an MLP of its own.
    (r"(^|\.)(vision\w*|visual\w*|audio\w*|image_newline|multi_modal\w*|multimodal\w*|mm_\w+|embed_vision|embed_audio"
     r"|connector|aligner|patch_merger|mlp1|resampler|resampler_model)(\.|$)", "towers"),
    (r"(^|\.)encoder\.", "towers"),
    (r"(^|\.)(lm_head|embed_out|output_head|proj_out)(\.|$)|^head\.", "output_head"),
    # Gemma's tables and projections per layer, and DeepSeek-V4's hyper-connections, are parts of their own.
    (r"per_layer(?!\w*norm)|attn_hc|ffn_hc|hc_head", "other"),
    # Scalars and short vectors: Llama-3.2-Vision's gates, the learned activation of Apertus.
    (r"attn_gate$|mlp_gate$|(^|\.)act_fn\.", "norms"),
    # Norms inside latent attention, indexers and recurrent mixers count with them; all others are norms.
    (r"q_a_(layer)?norm|kv_a_layernorm|compressor|indexer|self_attn\.kv_norm", "attention"),
    (r"(^|\.)(mamba|mixer|linear_attn|time_mixer)\.\w*norm", "state"),
    (r"(norm\w*|(^|\.)ln_?\w+)(\.weight|\.bias)?$|(^|\.)pre_ln\.", "norms"),
    (r"embed|(^|\.)wte\.|(^|\.)wpe\.|(^|\.)shared\.", "embedding"),
    (r"shared_expert_gate|router|\.gate\.(weight|tid2eid)$|e_score_correction_bias|expert_bias", "routers"),
    (r"shared_expert|shared_mlp|latent_proj", "mlp"),
    (r"\.experts\.|block_sparse_moe\.(input|output)_linear", "experts"),
    # Nemotron-H calls every block a mixer, and RecurrentGemma's attention is a temporal block like its recurrence.
    (r"\.(mixer|temporal_block)\.[qkvo]_proj\.", "attention"),
    (r"\.mixer\.(up|down)_proj\.", "mlp"),
    (r"(^|\.)(mamba|mixer|linear_attn|temporal_block|recurrent\w*|short_conv|conv)(\.|$)", "state"),
    (r"^rwkv\.blocks\.\d+\.attention\.", "state"),
    (r"self_attn|self_attention|attention|attn|SelfAttention|EncDecAttention", "attention"),
    (r"mlp|feed_forward|ffn|fc1|fc2|DenseReluDense|dense_h_to_4h|dense_4h_to_h", "mlp"),
)  # fmt: skip

_REMOTE_TYPES = {"kimi_k2": "deepseek_v3", "phi4": "phi3"}
"""Types of remote code -> the type in transformers that has the same layers and the same keys.

Only these: ``architectures`` alone misleads (rwkv5 calls itself RwkvForCausalLM), and a class that does not find its
keys takes its defaults in silence (phi-msft, ernie4_5_moe_vl).
"""


def exact_model(model: Model, values: Mapping[str, Any]) -> Model:
    """The model with the counts of its own code, ``values`` being the config that it was read from.

    Draft layers and the parameters that one token uses stay as counted from the config, since transformers builds no
    draft layers and does not say which experts idle. A total that differs from the config's count is noted. Raises
    UnsupportedError where transformers cannot build the model.
    """
    exact = count_parameters(values)
    counted = model.architecture.parameters
    notes = model.architecture.notes
    if counted is not None:
        exact = replace(exact, active=_active(exact, counted), mtp=counted.mtp)
        if counted.total != exact.total:
            notes += (f"the config alone counts {counted.total} parameters, the model's own code {exact.total}",)
    architecture = replace(model.architecture, parameters=exact, notes=notes)
    origin = {**model.provenance, "parameters": f"transformers {transformers.__version__}"}
    return replace(model, architecture=architecture, provenance=origin)


def count_parameters(values: Mapping[str, Any]) -> Parameters:
    """The exact counts of the model that a ``config.json`` describes; a tied output head counts once.

    ``active`` and ``mtp`` are not filled. Raises UnsupportedError where transformers cannot build the model.
    """
    counts: Counter[str] = Counter()
    for name, parameter in build_on_meta(values).named_parameters():  # yields a tied tensor once
        counts[part_of(name)] += parameter.numel()
    return Parameters(**counts, certainty="exact")


def build_on_meta(values: Mapping[str, Any]) -> torch.nn.Module:
    """The model's own class on the meta device. Raises UnsupportedError."""
    try:
        model_class, config = class_and_config(values)
        _tie_as_published(config, values)
        with torch.device("meta"):
            model: torch.nn.Module = model_class._from_config(config)
    except UnsupportedError:
        raise
    except Exception as error:  # transformers raises anything at all for a config it does not like
        reason = (str(error).splitlines() or [""])[0]
        raise UnsupportedError(
            f"transformers {transformers.__version__} cannot build this model: {type(error).__name__}: {reason[:200]}"
        ) from None
    return model


def part_of(name: str) -> str:
    """The field of Parameters that a weight's name belongs to."""
    for pattern, part in _PART_OF_NAME:
        if re.search(pattern, name):
            return part
    return "other"


def _active(exact: Parameters, counted: Parameters) -> int | None:
    """The active parameters after a recount: what a recount adds outside the towers is used by every token."""
    if counted.active is None:
        return None
    return counted.active + (exact.total - exact.towers) - (counted.total - counted.towers)


def class_and_config(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """The class that a config names, and the config as transformers reads it. Raises UnsupportedError."""
    model_type = str(values.get("model_type"))
    model_type = _REMOTE_TYPES.get(model_type, model_type)
    if model_type not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(f"transformers {transformers.__version__} does not know the model type {model_type!r}")
    config = transformers.AutoConfig.for_model(**{**values, "model_type": model_type})
    for architecture in values.get("architectures") or ():
        if hasattr(transformers, architecture):
            return getattr(transformers, architecture), config
    return _auto_class(config), config


def _auto_class(config: Any) -> Any:
    for auto_class in (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForSeq2SeqLM,
    ):
        if type(config) in auto_class._model_mapping:
            return auto_class._model_mapping[type(config)]
    raise UnsupportedError(f"transformers {transformers.__version__} has no language model for {type(config).__name__}")


def _tie_as_published(config: Any, values: Mapping[str, Any]) -> None:
    """Let the nested language model decide on tying where a wrapper's file is silent.

    transformers 5 ties by the wrapper's class default (Mistral 3 and InternVL: yes) until it sees two heads in the
    weights, which the published checkpoints of both have.
    """
    text_config = config.get_text_config(decoder=True)
    if text_config is not config and "tie_word_embeddings" not in values:
        config.tie_word_embeddings = getattr(text_config, "tie_word_embeddings", False)
