"""DBRX: attention and experts in nested sections, MPT's spellings for the rest (transformers 5.23 ``models/dbrx``)."""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import Block, decoder, mixture_feed_forward, read_mixture
from kvplan.core.family import Family
from kvplan.core.mixture import MixtureShape
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    shape = _read_attention(config)
    block = Block(
        layer=(headed_kind(shape),),
        attention=shape.parameters(),
        norms=2 * shape.hidden_size,
        feed_forward=mixture_feed_forward(_read_experts(config, shape.hidden_size)),
    )
    num_layers = config.integer("n_layers", "num_hidden_layers")
    config.complete({"max_position_embeddings": config.optional_integer("max_seq_len")})
    return decoder(config, [block] * num_layers, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


def _read_attention(config: ConfigReader) -> AttentionShape:
    hidden = config.integer("d_model", "hidden_size")
    heads = config.integer("n_heads", "num_attention_heads")
    section = config.section("attn_config")
    if section is None:
        config.missing("attn_config")
    section.ignore("attn_pdrop", "clip_qkv", "rope_theta")
    if hidden % heads:
        config.wrong("d_model", f"{hidden} is no multiple of the {heads} attention heads")
    return AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=section.integer("kv_n_heads"),
        head_dim=hidden // heads,
    )


def _read_experts(config: ConfigReader, hidden_size: int) -> MixtureShape:
    section = config.section("ffn_config")
    if section is None:
        config.missing("ffn_config")
    size = section.integer("ffn_hidden_size")
    return read_mixture(section, hidden_size, size, num_experts=("moe_num_experts",), num_active=("moe_top_k",))


FAMILY = Family(
    name="dbrx",
    model_types=("dbrx",),
    architectures=("DbrxForCausalLM",),
    read=_read,
    neutral_keys=frozenset({"num_key_value_heads"}),
)
