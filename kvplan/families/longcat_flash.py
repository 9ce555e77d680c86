"""LongCat-Flash (arXiv 2509.01322): every layer holds two latent attentions, two dense blocks and one mixture.

Key names and shapes: transformers 5.23 ``models/longcat_flash``. A token's experts may be zero experts, which
compute nothing; ``active`` counts a token that visits real ones only (the paper: 18.6 to 31.3 B).
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import gated_mlp
from kvplan.core.draft_layers import read_draft_count
from kvplan.core.family import Family
from kvplan.core.latent_attention import LatentShape, read_latent_shape
from kvplan.core.mixture import MixtureShape
from kvplan.core.model import Architecture, Parameters
from kvplan.core.widths import Widths


def _read(config: ConfigReader) -> Architecture:
    if config.text("attention_method", default="MLA") != "MLA":
        config.wrong("attention_method", f"must be 'MLA', not {config.value('attention_method')!r}")
    num_layers = config.integer("num_layers")
    config.ignore("num_hidden_layers")  # transformers writes 2 * num_layers, the original code num_layers
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    attention = read_latent_shape(config, hidden, heads)
    source = "vLLM 0.32 models/longcat_flash_mtp.py"
    num_draft = read_draft_count(config, "num_nextn_predict_layers", unstated=1, source=source)
    return Architecture(
        layers=num_layers * ((attention.kind(), attention.kind()),),
        hidden_size=hidden,
        num_heads=heads,
        max_context_tokens=config.optional_integer("max_position_embeddings"),
        draft_layers=num_draft * ((attention.kind(),),),
        parameters=_parameters(config, attention, num_layers, num_draft),
        widths=_widths(config, attention),
    )


def _widths(config: ConfigReader, attention: LatentShape) -> Widths:
    mixture = _read_experts(config, attention.hidden_size)
    return Widths(
        vocab_size=config.integer("vocab_size"),
        intermediate_size=config.integer("ffn_hidden_size", "intermediate_size"),
        num_experts=mixture.num_experts,
        experts_per_token=mixture.num_active,
        moe_intermediate_size=mixture.expert_intermediate_size,
        q_lora_rank=attention.q_lora_rank or 0,
        qk_nope_head_dim=attention.qk_nope_head_dim,
        v_head_dim=attention.v_head_dim,
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
    )


def _read_experts(config: ConfigReader, hidden_size: int) -> MixtureShape:
    return MixtureShape(
        hidden_size=hidden_size,
        expert_intermediate_size=config.integer("expert_ffn_hidden_size", "moe_intermediate_size"),
        num_experts=config.integer("n_routed_experts"),
        num_active=config.integer("moe_topk", "num_experts_per_tok"),
    )


def _parameters(config: ConfigReader, attention: LatentShape, num_layers: int, num_draft: int) -> Parameters:
    """Counts of the whole model; a draft layer is one attention, one dense block, a 2:1 projection and norms."""
    hidden = attention.hidden_size
    vocab = hidden * config.integer("vocab_size")
    dense = gated_mlp(hidden, config.integer("ffn_hidden_size", "intermediate_size"))
    mixture = _read_experts(config, hidden)
    num_zero = config.integer("zero_expert_num", default=0, minimum=0)
    router = (hidden + config.flag("router_bias", default=False)) * (mixture.num_experts + num_zero)
    counts = Parameters(
        embedding=vocab,
        output_head=0 if config.flag("tie_word_embeddings", default=False) else vocab,
        attention=2 * num_layers * attention.parameters(),
        mlp=2 * num_layers * dense,
        experts=num_layers * mixture.experts,
        routers=num_layers * router,
        norms=(4 * num_layers + 1) * hidden,
        mtp=num_draft * (attention.parameters() + dense + 2 * hidden * hidden + 5 * hidden),
    )
    return replace(counts, active=counts.total - num_layers * mixture.idle)


FAMILY = Family(
    name="longcat_flash",
    model_types=("longcat_flash",),
    architectures=("LongcatFlashForCausalLM",),
    read=_read,
    neutral_keys=frozenset(
        {
            "_attn_implementation",
            "ep_size",
            "mla_scale_kv_lora",
            "mla_scale_q_lora",
            "zero_expert_type",
        }
    ),
)
