"""BART and its kin: BART, PLBart, mBART, M2M-100 with NLLB, Marian, Pegasus and Blenderbot.

One layout with small differences in positions and norms (transformers 5.23 ``models/bart`` and its copies). The
output head is tied to the embedding unless the file says otherwise.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.encoder_decoder import StackShape, decoder_layer, layer_norm, read_stack, require_decoder
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture, Parameters
from kvplan.core.widths import Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """How a model type differs.

    ``position_offset``  rows of the position table beyond ``max_position_embeddings``; None without a table
    ``edge_norms``       norms of a stack outside its layers: one after the embedding, one at the end, or both
    """

    position_offset: int | None
    edge_norms: int


_VARIANTS = {
    "bart": _Variant(position_offset=2, edge_norms=1),
    "plbart": _Variant(position_offset=2, edge_norms=1),
    "mbart": _Variant(position_offset=2, edge_norms=2),
    "m2m_100": _Variant(position_offset=None, edge_norms=1),
    "nllb-moe": _Variant(position_offset=None, edge_norms=1),
    "marian": _Variant(position_offset=0, edge_norms=0),
    "pegasus": _Variant(position_offset=0, edge_norms=1),
    "blenderbot": _Variant(position_offset=0, edge_norms=1),
    "blenderbot-small": _Variant(position_offset=0, edge_norms=1),
}


def _read(config: ConfigReader) -> Architecture:
    require_decoder(config)
    encoder = read_stack(config, "encoder")
    decoder = read_stack(config, "decoder")
    return Architecture(
        layers=decoder.num_layers * (decoder_layer(decoder.num_heads, decoder.hidden_size // decoder.num_heads),),
        hidden_size=decoder.hidden_size,
        num_heads=decoder.num_heads,
        max_context_tokens=config.optional_integer("max_position_embeddings"),
        parameters=_parameters(config, encoder, decoder),
        widths=_widths(config, decoder),
    )


def _widths(config: ConfigReader, decoder: StackShape) -> Widths:
    sparse = config.value("model_type") == "nllb-moe" and config.integer("decoder_sparse_step", minimum=0) > 0
    num_experts = config.integer("num_experts") if sparse else 0
    return Widths(
        vocab_size=config.integer("decoder_vocab_size", "vocab_size"),
        intermediate_size=decoder.ffn_size,
        gated=False,
        num_experts=num_experts,
        experts_per_token=min(2, num_experts),
        moe_intermediate_size=decoder.ffn_size if sparse else 0,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
    )


def _parameters(config: ConfigReader, encoder: StackShape, decoder: StackShape) -> Parameters:
    model_type = config.text("model_type", default="bart")
    hidden = decoder.hidden_size
    edge = _edge_parameters(config, _VARIANTS.get(model_type, _VARIANTS["bart"]), hidden)
    embedding = hidden * config.integer("vocab_size")
    decoder_embedding = hidden * config.integer("decoder_vocab_size", default=config.integer("vocab_size"))
    shared = config.flag("share_encoder_decoder_embeddings", default=True)
    counts = Parameters(
        embedding=embedding if shared else decoder_embedding,
        output_head=0 if config.flag("tie_word_embeddings", default=True) else decoder_embedding,
        attention=2 * decoder.num_layers * decoder.attention,
        mlp=decoder.num_layers * decoder.mlp,
        norms=3 * decoder.num_layers * layer_norm(hidden),
        towers=encoder.encoder_layers() + edge + (0 if shared else embedding),
        other=edge,
    )
    return _with_experts(config, counts, encoder, decoder) if model_type == "nllb-moe" else counts


def _edge_parameters(config: ConfigReader, variant: _Variant, hidden: int) -> int:
    """A stack's position table and the norms outside its layers."""
    norms = variant.edge_norms * layer_norm(hidden)
    if variant.position_offset is None:
        return norms
    return norms + hidden * (config.integer("max_position_embeddings") + variant.position_offset)


def _with_experts(config: ConfigReader, counts: Parameters, encoder: StackShape, decoder: StackShape) -> Parameters:
    """NLLB-MoE: every ``sparse_step``-th layer holds copies of the feed-forward block; a token visits two."""
    num_experts = config.integer("num_experts")
    router = linear(decoder.hidden_size, num_experts, config.flag("router_bias", default=False))
    encoder_step = config.integer("encoder_sparse_step", minimum=0)
    decoder_step = config.integer("decoder_sparse_step", minimum=0)
    encoder_sparse = encoder.num_layers // encoder_step if encoder_step else 0
    decoder_sparse = decoder.num_layers // decoder_step if decoder_step else 0
    counts = replace(
        counts,
        mlp=counts.mlp - decoder_sparse * decoder.mlp,
        experts=decoder_sparse * num_experts * decoder.mlp,
        routers=decoder_sparse * router,
        towers=counts.towers + encoder_sparse * ((num_experts - 1) * encoder.mlp + router),
    )
    idle = (num_experts - min(2, num_experts)) * (encoder_sparse * encoder.mlp + decoder_sparse * decoder.mlp)
    return replace(counts, active=counts.total - idle)


FAMILY = Family(
    name="bart",
    model_types=tuple(_VARIANTS),
    architectures=("BartForConditionalGeneration", "BartModel"),
    read=_read,
    neutral_keys=frozenset(
        {
            "add_final_layer_norm",
            "decoder_layerdrop",
            "do_blenderbot_90_layernorm",
            "encoder_layerdrop",
            "expert_capacity",
            "extra_pos_embeddings",
            "layernorm_embedding",
            "layernorm_variant",
            "normalize_before",
            "normalize_embedding",
            "num_attention_heads",
            "num_hidden_layers",
            "router_ignore_padding_tokens",
            "static_position_embeddings",
        }
    ),
)
