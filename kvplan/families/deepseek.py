"""Decoders with latent attention: DeepSeek V2, V3 and V3.2, Kimi-K2, GLM-4.7-Flash, GLM-5, Mistral 4 and their kin.

They share one layout (key names and shapes: transformers 5.23 ``models/deepseek_v3`` and its descendants): latent
attention in every layer, in the V3.2 and GLM-5 line an index besides, and a dense or a mixture feed-forward.
"""

from __future__ import annotations

from kvplan.core.attention import FullAttention
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import Block, check_length, decoder, read_deepseek_feed_forwards
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.latent_attention import IndexerShape, LatentShape, read_index_layers, read_latent_shape
from kvplan.core.model import Architecture, Layer

_SPARSE_ATTENTION = ("deepseek_v32", "glm_moe_dsa")
"""Model types whose attention has an index even if the file leaves ``index_topk`` to the class."""

_ALWAYS_DENSE = ("minicpm3", "youtu", "youtu_llm")
"""Model types without experts, which also tie their output head unless the file says otherwise."""

_NORM_AFTER_EXPERTS = ("axk1", "AXK1")
"""Model types with a third norm in each mixture block (``post_mlp_layernorm``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mixer:
    """One layer's attention: what it stores and its parameters."""

    layer: Layer
    parameters: int


def _read(config: ConfigReader) -> Architecture:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    model_type = config.text("model_type", default="")
    if model_type in _ALWAYS_DENSE:
        config.complete({"n_routed_experts": None})
    extra_norm = hidden if model_type in _NORM_AFTER_EXPERTS else 0
    blocks = [
        Block(
            layer=mixer.layer,
            attention=mixer.parameters,
            norms=2 * hidden + (extra_norm if feed.experts else 0),
            feed_forward=feed,
        )
        for mixer, feed in zip(
            _mixers(config, model_type, hidden, heads, num_layers),
            read_deepseek_feed_forwards(config, hidden, num_layers),
        )
    ]
    num_draft = config.integer("num_nextn_predict_layers", "num_mtp_layers", default=0, minimum=0)
    return decoder(
        config,
        blocks,
        hidden_size=hidden,
        num_heads=heads,
        tied=model_type in _ALWAYS_DENSE,
        draft=num_draft * [max(blocks, key=lambda block: block.total)],  # one that has experts and its own index
    )


def _mixers(config: ConfigReader, model_type: str, hidden: int, heads: int, num_layers: int) -> list[_Mixer]:
    types = config.texts("layer_types", allowed=("full_attention", "indexed_attention"))
    if types is not None:
        check_length(config, "layer_types", types, num_layers)
    if not config.flag("use_mla", default=True):
        return num_layers * [_headed_mixer(config, hidden, heads)]
    # MiniCPM3's published file leaves the value's width to its class: hidden_size / num_attention_heads
    default_v_head_dim = hidden // heads if model_type == "minicpm3" else None
    latent = read_latent_shape(config, hidden, heads, default_v_head_dim)
    plain = _Mixer(layer=(latent.kind(),), parameters=latent.parameters())
    has_index = config.has("index_topk") or model_type in _SPARSE_ATTENTION
    if not has_index:
        return num_layers * [plain]
    indexer = _read_indexer(config, latent)
    indexed = _Mixer(layer=(latent.kind(), indexer.kind()), parameters=latent.parameters() + indexer.parameters())
    return [indexed if own else plain for own in read_index_layers(config, num_layers)]


def _headed_mixer(config: ConfigReader, hidden: int, heads: int) -> _Mixer:
    """Ordinary attention, which the language models of DeepSeek-OCR and DeepSeek-VL2-Tiny keep (``use_mla`` false)."""
    config.ignore("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "head_dim")
    if hidden % heads:
        config.wrong("hidden_size", f"{hidden} is no multiple of the {heads} attention heads")
    bias = config.flag("attention_bias", default=False)
    shape = AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=config.integer("num_key_value_heads", default=heads),
        head_dim=hidden // heads,
        qkv_bias=bias,
        output_bias=bias,
    )
    kind = FullAttention(num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim)
    return _Mixer(layer=(kind,), parameters=shape.parameters())


def _read_indexer(config: ConfigReader, latent: LatentShape) -> IndexerShape:
    if latent.q_lora_rank is None:
        config.wrong("q_lora_rank", "must not be null: the indexer reads the query latent")
    return IndexerShape(
        hidden_size=latent.hidden_size,
        q_lora_rank=latent.q_lora_rank,
        num_heads=config.integer("index_n_heads"),
        head_dim=config.integer("index_head_dim"),
    )


FAMILY = Family(
    name="deepseek",
    model_types=(
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "kimi_k2",
        "glm_moe_dsa",
        "glm4_moe_lite",
        "mistral4",
        "axk1",
        "AXK1",
        "minicpm3",
        "youtu",
        "youtu_llm",
    ),
    architectures=(
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "DeepseekV32ForCausalLM",
        "GlmMoeDsaForCausalLM",
        "Glm4MoeLiteForCausalLM",
        "Mistral4ForCausalLM",
        "AXK1ForCausalLM",
        "MiniCPM3ForCausalLM",
        "YoutuForCausalLM",
    ),
    read=_read,
    neutral_keys=frozenset(
        {
            "_attn_implementation",
            "embedding_initializer_range",
            "ep_size",
            "head_dim",
            "index_share_for_mtp_iteration",
            "index_topk",
            "indexer_rope_interleave",
            "lm_head",
            "moe_router_dtype",
            "num_key_value_heads",
            "qk_head_dim",
            "rm_head",
        }
    ),
)
