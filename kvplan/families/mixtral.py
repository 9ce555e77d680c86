"""Decoders with a mixture of experts in every layer: Mixtral, Phi-3.5-MoE, OLMoE, FlexOlmo, Granite MoE, MiniMax-M2.

They share one layout and differ in biases, norms and class defaults (transformers 5.23, ``models/<model_type>``).
"""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import Block, decoder, mixture_feed_forward, read_attention_shape, read_mixture
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """What tells the members apart.

    ``num_kv_heads``, ``head_dim``  class defaults of absent keys
    ``norm_vectors``                vectors per norm: 2 for a layer norm with bias
    ``norms_queries``               queries and keys are normed over all heads together
    """

    num_kv_heads: int | None = None
    head_dim: int | None = None
    norm_vectors: int = 1
    norms_queries: bool = False


_TRAITS = {
    "mixtral": _Traits(num_kv_heads=8),
    "phimoe": _Traits(num_kv_heads=8, norm_vectors=2),
    "olmoe": _Traits(norms_queries=True),
    "flex_olmo": _Traits(norms_queries=True),
    "granitemoe": _Traits(),
    "granitemoeshared": _Traits(),
    "minimax_m2": _Traits(num_kv_heads=8, head_dim=128, norms_queries=True),
}


def _read(config: ConfigReader) -> Architecture:
    traits = _TRAITS.get(config.text("model_type", default="mixtral"), _TRAITS["mixtral"])
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(
        config, num_kv_heads=traits.num_kv_heads, head_dim=traits.head_dim, qkv_bias=bias, output_bias=bias
    )
    num_layers = config.integer("num_hidden_layers")
    _check_attention_types(config)
    windows = read_windows(config, num_layers)
    experts = read_mixture(
        config,
        shape.hidden_size,
        config.integer("intermediate_size"),
        shared_size=config.integer("shared_intermediate_size", default=0, minimum=0),
    )
    norm = traits.norm_vectors * shape.hidden_size
    query_norms = (shape.num_heads + shape.num_kv_heads) * shape.head_dim if traits.norms_queries else 0
    blocks = [
        Block(
            layer=(headed_kind(shape, window),),
            attention=shape.parameters(),
            norms=2 * norm + query_norms,
            feed_forward=mixture_feed_forward(experts),
        )
        for window in windows
    ]
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        final_norm=norm,
        head_bias=config.flag("lm_head_bias", default=False),
        draft=blocks[-1:] * _num_draft_layers(config),
    )


def _check_attention_types(config: ConfigReader) -> None:
    """MiniMax lists 1 for softmax and 0 for lightning attention; the M2 line has no lightning attention."""
    types = config.integers("attn_type_list")
    if types is not None and set(types) - {1}:
        config.wrong(
            "attn_type_list", "has entries other than 1 (softmax attention), which this model type does not have"
        )


def _num_draft_layers(config: ConfigReader) -> int:
    """MiniMax-M2's draft modules, each of ``mtp_transformer_layers`` layers."""
    per_module = config.integer("mtp_transformer_layers", default=1)
    modules = config.integer("num_mtp_modules", "num_nextn_predict_layers", default=0, minimum=0)
    return modules * per_module if config.flag("use_mtp", default=True) else 0


FAMILY = Family(
    name="mixtral",
    model_types=tuple(_TRAITS),
    architectures=(
        "MixtralForCausalLM",
        "PhiMoEForCausalLM",
        "PhimoeForCausalLM",
        "OlmoeForCausalLM",
        "FlexOlmoForCausalLM",
        "GraniteMoeForCausalLM",
        "GraniteMoeSharedForCausalLM",
        "MiniMaxM2ForCausalLM",
    ),
    read=_read,
    neutral_keys=frozenset({"clip_qkv", "layernorm_full_attention_alpha", "max_window_layers"}),
)
