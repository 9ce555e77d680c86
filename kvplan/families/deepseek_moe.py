"""DeepSeekMoE layouts (arXiv 2401.06066) with headed attention: DeepSeek V1, GLM-4.5, Hy3, Solar Open, dots1, Ling.

The first layers are dense, the others have many small routed experts and a few shared ones that are always active.
Key names, biases and class defaults: transformers 5.23 (``deepseek`` and ``bailing_moe``: the published remote code).
"""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind, read_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import (
    Block,
    FeedForward,
    decoder,
    read_attention_shape,
    read_deepseek_feed_forwards,
    read_defaulted,
)
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """What tells the members apart.

    ``num_kv_heads``, ``head_dim``, ``first_dense``  class defaults of absent keys
    ``full_layers``    class default of ``max_window_layers``: with a window, the layers below it stay full
    ``norms_queries``  queries and keys are normed per head; None where a flag of the config says so
    ``output_bias``    the attention's output projection follows ``attention_bias``
    """

    num_kv_heads: int | None = None
    head_dim: int | None = None
    first_dense: int | None = None
    norms_queries: bool | None = None
    output_bias: bool = True
    full_layers: int = 0


_GLM = _Traits(num_kv_heads=8, first_dense=1, output_bias=False)

_TRAITS = {
    "deepseek": _Traits(norms_queries=False, first_dense=0),
    "glm4_moe": _GLM,
    "glm4v_moe_text": _GLM,
    "hy_v3": _Traits(num_kv_heads=8, head_dim=128, first_dense=1, norms_queries=True),
    "solar_open": _Traits(num_kv_heads=8, head_dim=128, first_dense=0, norms_queries=False),
    "dots1": _Traits(num_kv_heads=32, first_dense=0, norms_queries=True, full_layers=62),
    "bailing_moe": _Traits(first_dense=0),
    "bailing_moe_v2": _Traits(first_dense=0),
}


def _read(config: ConfigReader) -> Architecture:
    traits = _TRAITS.get(config.text("model_type", default="glm4_moe"), _GLM)
    shape = _read_attention(config, traits)
    num_layers = config.integer("num_hidden_layers")
    windows = read_windows(config, num_layers, default_max_window_layers=traits.full_layers)
    feeds = _read_feed_forwards(config, traits, shape.hidden_size, num_layers)
    norms_queries = traits.norms_queries
    if norms_queries is None:
        norms_queries = config.flag("use_qk_norm", default=False)
    norms = 2 * shape.hidden_size + (2 * shape.head_dim if norms_queries else 0)
    blocks = [
        Block(layer=(headed_kind(shape, window),), attention=shape.parameters(), norms=norms, feed_forward=feed)
        for window, feed in zip(windows, feeds)
    ]
    num_draft = config.integer("num_nextn_predict_layers", "num_mtp_layers", default=0, minimum=0)
    return decoder(
        config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads, draft=blocks[-1:] * num_draft
    )


def _read_attention(config: ConfigReader, traits: _Traits) -> AttentionShape:
    """GLM biases only queries, keys and values; Ling names the biases ``use_qkv_bias`` and ``use_bias``."""
    bias = config.flag("attention_bias", "use_qkv_bias", default=False)
    output_bias = config.flag("use_bias", default=bias and traits.output_bias)
    return read_attention_shape(
        config,
        num_kv_heads=traits.num_kv_heads,
        head_dim=traits.head_dim,
        qkv_bias=bias,
        output_bias=output_bias,
    )


def _read_feed_forwards(config: ConfigReader, traits: _Traits, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """DeepSeek's keys, some of which Hunyuan 3 and Ling spell their own way and some classes have defaults for."""
    config.complete(
        {
            "n_shared_experts": config.optional_integer("num_shared_experts", minimum=0),
            "moe_intermediate_size": config.optional_integer("expert_hidden_dim"),
        }
    )
    if not config.has("mlp_layer_types") and not config.has("first_k_dense_replace"):
        config.complete({"first_k_dense_replace": read_defaulted(config, "first_k_dense_replace", traits.first_dense)})
    config.ignore("moe_layer_freq", "n_shared_experts")  # without effect in a model without experts
    return read_deepseek_feed_forwards(config, hidden_size, num_layers)


FAMILY = Family(
    name="deepseek_moe",
    model_types=tuple(_TRAITS),
    architectures=(
        "DeepseekForCausalLM",
        "Glm4MoeForCausalLM",
        "HYV3ForCausalLM",
        "SolarOpenForCausalLM",
        "Dots1ForCausalLM",
        "BailingMoeForCausalLM",
        "BailingMoeV2ForCausalLM",
    ),
    read=_read,
    neutral_keys=frozenset(
        {
            "enable_attention_fp32_softmax",
            "enable_lm_head_fp32",
            "moe_router_enable_expert_bias",
            "moe_shared_expert_intermediate_size",  # the routed experts' own size again, in every published file
            "mtp_loss_scaling_factor",
            "norm_head",
        }
    ),
)
