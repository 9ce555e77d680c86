"""T5 and its kin: T5, mT5, ByT5, UMT5, LongT5 and Switch Transformers, encoder-decoders with relative positions.

Key names and shapes: transformers 5.23 ``models/t5``, ``umt5``, ``longt5`` and ``switch_transformers``. Relative
positions set no length limit, so only the trained length that old files state (``n_positions``) is taken as one.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, gated_mlp, linear, plain_mlp
from kvplan.core.encoder_decoder import decoder_layer, require_decoder
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture, Parameters
from kvplan.core.widths import Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The numbers of a T5 config; ``attention``, ``mlp`` and ``router`` are the parameters of one block."""

    hidden_size: int
    num_heads: int
    head_dim: int
    encoder_layers: int
    decoder_layers: int
    attention: int
    mlp: int
    bias_table: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Experts:
    """Switch Transformers: how many layers of each stack hold ``num_experts`` copies of the feed-forward block."""

    num_experts: int
    router: int
    encoder_layers: int
    decoder_layers: int


def _read(config: ConfigReader) -> Architecture:
    require_decoder(config)
    shape = _read_shape(config)
    return Architecture(
        layers=shape.decoder_layers * (decoder_layer(shape.num_heads, shape.head_dim),),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        max_context_tokens=config.optional_integer("n_positions"),
        num_encoder_layers=shape.encoder_layers,
        parameters=_parameters(config, shape),
        widths=_widths(config, shape),
    )


def _widths(config: ConfigReader, shape: _Shape) -> Widths:
    experts = _read_experts(config, shape)
    sparse = experts is not None and experts.decoder_layers > 0
    width = config.integer("d_ff")
    return Widths(
        vocab_size=config.integer("vocab_size"),
        intermediate_size=width,
        gated=_is_gated(config),
        num_experts=experts.num_experts if experts and sparse else 0,
        experts_per_token=1 if sparse else 0,
        moe_intermediate_size=width if sparse else 0,
        tied_embeddings=True,
    )


def _read_shape(config: ConfigReader) -> _Shape:
    hidden = config.integer("d_model")
    num_heads = config.integer("num_heads")
    head_dim = config.integer("d_kv")
    encoder_layers = config.integer("num_layers")
    attention = AttentionShape(hidden_size=hidden, num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim)
    count_mlp = gated_mlp if _is_gated(config) else plain_mlp
    return _Shape(
        hidden_size=hidden,
        num_heads=num_heads,
        head_dim=head_dim,
        encoder_layers=encoder_layers,
        decoder_layers=config.integer("num_decoder_layers", default=encoder_layers),
        attention=attention.parameters(),
        mlp=count_mlp(hidden, config.integer("d_ff")),
        bias_table=num_heads * config.integer("relative_attention_num_buckets", default=32),
    )


def _is_gated(config: ConfigReader) -> bool:
    """Whether the feed-forward has a gate; the classes of mT5 and UMT5 have one unless the file says otherwise."""
    model_type = config.text("model_type", default="t5")
    if model_type == "switch_transformers":
        config.ignore("feed_forward_proj")
        return False
    default = "gated-gelu" if model_type in ("mt5", "umt5") else "relu"
    return config.text("feed_forward_proj", default=default).startswith("gated-")


def _parameters(config: ConfigReader, shape: _Shape) -> Parameters:
    """Counts of the whole model: the output head is tied to the embedding whatever the file says (transformers 5)."""
    hidden, encoder, decoder = shape.hidden_size, shape.encoder_layers, shape.decoder_layers
    encoder_tables = decoder_tables = 1
    if config.text("model_type", default="t5") == "umt5":
        encoder_tables, decoder_tables = encoder, decoder
    counts = Parameters(
        embedding=hidden * config.integer("vocab_size"),
        attention=2 * decoder * shape.attention + decoder_tables * shape.bias_table,
        mlp=decoder * shape.mlp,
        norms=(3 * decoder + 1) * hidden,
        towers=encoder * (shape.attention + shape.mlp)
        + encoder_tables * shape.bias_table
        + (2 * encoder + 1) * hidden
        + _global_attention(config, shape),
    )
    experts = _read_experts(config, shape)
    return counts if experts is None else _with_experts(counts, shape, experts)


def _global_attention(config: ConfigReader, shape: _Shape) -> int:
    """LongT5's transient global tokens: one more norm in each encoder layer and one more bias table."""
    if config.text("encoder_attention_type", default="local") != "transient-global":
        return 0
    return shape.encoder_layers * shape.hidden_size + shape.bias_table


def _with_experts(counts: Parameters, shape: _Shape, experts: _Experts) -> Parameters:
    """Sparse layers hold copies of the block and a router; a token visits one copy."""
    extra = experts.num_experts - 1
    counts = replace(
        counts,
        mlp=counts.mlp - experts.decoder_layers * shape.mlp,
        experts=experts.decoder_layers * experts.num_experts * shape.mlp,
        routers=experts.decoder_layers * experts.router,
        towers=counts.towers + experts.encoder_layers * (extra * shape.mlp + experts.router),
    )
    idle = (experts.encoder_layers + experts.decoder_layers) * extra * shape.mlp
    return replace(counts, active=counts.total - idle)


def _read_experts(config: ConfigReader, shape: _Shape) -> _Experts | None:
    if config.text("model_type", default="t5") != "switch_transformers":
        return None
    num_experts = config.integer("num_experts")
    return _Experts(
        num_experts=num_experts,
        router=linear(shape.hidden_size, num_experts, config.flag("router_bias", default=False)),
        encoder_layers=_sparse_layers(shape.encoder_layers, config.integer("num_sparse_encoder_layers", minimum=0)),
        decoder_layers=_sparse_layers(shape.decoder_layers, config.integer("num_sparse_decoder_layers", minimum=0)),
    )


def _sparse_layers(num_layers: int, num_sparse: int) -> int:
    """Sparse layers that the model builds, which need not be the number asked for.

    Layer i is sparse when ``i % step == 1`` (or the step is 1), with a step of layers // sparse layers
    (transformers 5.23 ``SwitchTransformersStack``): switch-c-2048 asks for 15 of 12 decoder layers and gets none.
    """
    step = num_layers // num_sparse if num_sparse else num_layers
    return sum(step > 0 and (layer % step == 1 or step == 1) for layer in range(num_layers))


FAMILY = Family(
    name="t5",
    model_types=("t5", "mt5", "umt5", "longt5", "switch_transformers"),
    architectures=("T5ForConditionalGeneration",),
    read=_read,
    neutral_keys=frozenset(
        {
            "decoder_sparse_step",
            "encoder_sparse_step",
            "expert_capacity",
            "global_block_size",
            "head_dim",
            "is_full_sparse",
            "layer_norm_epsilon",
            "local_radius",
            "num_attention_heads",
            "num_hidden_layers",
            "output_past",
            "relative_attention_max_distance",
            "router_ignore_padding_tokens",
        }
    ),
)
