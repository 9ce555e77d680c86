"""OPT, BioGPT and XGLM: the decoders of fairseq's line.

OPT and BioGPT have learned positions, offset by two; XGLM computes its own. OPT may embed words in a narrower width
(``word_embed_proj_dim``) and then has projections in and out. Shapes: transformers 5.23 ``models/opt``, ``biogpt``,
``xglm``.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.classic_decoder import (
    CONTEXT,
    classic_blocks,
    read_classic_shape,
    read_full_windows,
    read_plain_mlp,
)
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_MODEL_TYPES = ("opt", "biogpt", "xglm")

_CLASSES = {
    "OPTForCausalLM": "opt",
    "BioGptForCausalLM": "biogpt",
    "XGLMForCausalLM": "xglm",
}
"""Class names, for configs without a model type."""


_POSITION_OFFSET = 2


def _read(config: ConfigReader) -> Architecture:
    model_type = read_model_type(config, _MODEL_TYPES, _CLASSES)
    bias = config.flag("enable_bias", default=True)
    has_norm_weights = config.flag("layer_norm_elementwise_affine", default=True)
    shape = read_classic_shape(config, qkv_bias=bias, output_bias=bias)
    hidden = shape.hidden_size
    has_final_norm = config.flag("do_layer_norm_before", default=True) and not config.flag(
        "_remove_final_layer_norm", default=False
    )
    architecture = decoder(
        config,
        classic_blocks(
            shape,
            read_plain_mlp(config, hidden, bias),
            read_full_windows(config),
            num_norms=2 if has_norm_weights else 0,
        ),
        hidden_size=hidden,
        num_heads=shape.num_heads,
        tied=True,
        final_norm=2 * hidden if has_final_norm and has_norm_weights else 0,
        num_positions=0 if model_type == "xglm" else config.integer(*CONTEXT) + _POSITION_OFFSET,
        context_keys=CONTEXT,
    )
    narrow = config.integer("word_embed_proj_dim", default=hidden)
    return architecture if narrow == hidden else _narrowed(config, architecture, narrow)


def _narrowed(config: ConfigReader, architecture: Architecture, narrow: int) -> Architecture:
    """The architecture with words embedded in ``narrow`` elements and a projection on each side (OPT-350M)."""
    counts = architecture.parameters
    if counts is None:
        return architecture
    hidden = architecture.hidden_size
    saved = config.integer("vocab_size") * (hidden - narrow)
    counts = replace(
        counts,
        embedding=counts.embedding - saved,
        output_head=counts.output_head - (saved if counts.output_head else 0),
        other=2 * hidden * narrow,
    )
    return replace(architecture, parameters=counts)


FAMILY = Family(
    name="opt",
    model_types=_MODEL_TYPES,
    architectures=tuple(_CLASSES),
    read=_read,
    neutral_keys=frozenset({"layerdrop", "attention_probs_dropout_prob"}),
)
