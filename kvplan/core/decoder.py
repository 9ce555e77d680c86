"""A decoder put together layer by layer: what each layer stores and weighs, summed up to an Architecture.

Families whose layers differ (dense and sparse, windowed and full) describe each one as a ``Block`` and leave the sums
to ``decoder``. A router's load-balancing bias counts only where the model's own code makes it a parameter, no buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kvplan.core.attention import IndexKeys, Latent
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, gated_mlp, linear, plain_mlp
from kvplan.core.frozen import dataclass
from kvplan.core.mixture import MixtureShape, read_sparse_layers
from kvplan.core.model import Architecture, Layer, Parameters
from kvplan.core.widths import Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """Parameters of one layer's feed-forward part, and its widths as in ``Widths``.

    ``idle`` counts the parameters of the experts that a token does not visit.
    """

    mlp: int = 0
    experts: int = 0
    router: int = 0
    idle: int = 0
    intermediate_size: int = 0
    gated: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    shared_intermediate_size: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.mlp + self.experts + self.router


def dense_feed_forward(hidden_size: int, intermediate_size: int, bias: bool = False) -> FeedForward:
    """A gated MLP."""
    return FeedForward(mlp=gated_mlp(hidden_size, intermediate_size, bias), intermediate_size=intermediate_size)


def plain_feed_forward(hidden_size: int, intermediate_size: int, bias: bool = False) -> FeedForward:
    """An MLP without a gate."""
    mlp = plain_mlp(hidden_size, intermediate_size, bias)
    return FeedForward(mlp=mlp, intermediate_size=intermediate_size, gated=False)


def mixture_feed_forward(shape: MixtureShape, router_bias: bool = False) -> FeedForward:
    """Routed experts with their router, and the shared expert if there is one; ``router_bias`` adds one per expert."""
    router = linear(shape.hidden_size, shape.num_experts, router_bias)
    return FeedForward(
        mlp=shape.shared,
        experts=shape.experts,
        router=router,
        idle=shape.idle,
        num_experts=shape.num_experts,
        experts_per_token=shape.num_active,
        moe_intermediate_size=shape.expert_intermediate_size if shape.num_experts else 0,
        shared_intermediate_size=shape.shared_intermediate_size,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One decoder layer: what it stores, and its parameters by part."""

    layer: Layer
    attention: int
    norms: int
    feed_forward: FeedForward
    state: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Parameters of the whole layer."""
        return self.attention + self.state + self.norms + self.feed_forward.total + self.other


def decoder(
    config: ConfigReader,
    blocks: Sequence[Block],
    *,
    hidden_size: int,
    num_heads: int | None,
    tied: bool = False,
    final_norm: int | None = None,
    head_bias: bool = False,
    other: int = 0,
    draft: Sequence[Block] = (),
    num_positions: int = 0,
    index_num_heads: int | None = None,
    vocab_keys: Sequence[str] = ("vocab_size",),
    context_keys: Sequence[str] = ("max_position_embeddings",),
) -> Architecture:
    """The Architecture of ``blocks`` between an embedding and an output head.

    ``tied`` is the class default where the config does not say; ``final_norm`` defaults to one vector; ``other``
    counts what belongs to no layer; ``num_positions`` is the height of a learned position table; ``index_num_heads``
    is read by DeepSeek's key where a layer has an index, unless given; the ``_keys`` are the
    family's names for its vocabulary and its longest context. A draft layer adds a 2:1 projection and three norms
    (DeepSeek-V3, arXiv 2412.19437, section 2.2). Raises MissingKeyError without the vocabulary's size.
    """
    vocab_size = config.integer(*vocab_keys)
    is_tied = config.flag("tie_word_embeddings", default=tied)
    feeds = [block.feed_forward for block in blocks]
    head = 0 if is_tied else vocab_size * hidden_size
    counts = Parameters(
        embedding=(vocab_size + num_positions) * hidden_size,
        output_head=head + (vocab_size if head_bias else 0),
        attention=sum(block.attention for block in blocks),
        state=sum(block.state for block in blocks),
        mlp=sum(feed.mlp for feed in feeds),
        experts=sum(feed.experts for feed in feeds),
        routers=sum(feed.router for feed in feeds),
        norms=sum(block.norms for block in blocks) + (hidden_size if final_norm is None else final_norm),
        other=sum(block.other for block in blocks) + other,
        mtp=sum(block.total for block in draft) + len(draft) * (2 * hidden_size + 3) * hidden_size,
    )
    return Architecture(
        layers=tuple(block.layer for block in blocks),
        hidden_size=hidden_size,
        num_heads=num_heads,
        max_context_tokens=longest_context(config, *context_keys),
        draft_layers=tuple(block.layer for block in draft),
        parameters=with_active(counts, sum(feed.idle for feed in feeds)),
        widths=_read_widths(config, blocks, vocab_size, is_tied, index_num_heads),
    )


FEED_WIDTHS = (
    "intermediate_size",
    "num_experts",
    "experts_per_token",
    "moe_intermediate_size",
    "shared_intermediate_size",
)


def _read_widths(
    config: ConfigReader, blocks: Sequence[Block], vocab_size: int, tied: bool, index_num_heads: int | None
) -> Widths:
    """The widths of the layers; those of latent attention and its index by their keys, where a layer has them."""
    feeds = [block.feed_forward for block in blocks]
    kinds = [kind for block in blocks for kind in block.layer]
    latent = (
        ("q_lora_rank", "qk_nope_head_dim", "v_head_dim") if any(isinstance(kind, Latent) for kind in kinds) else ()
    )
    if index_num_heads is None and any(isinstance(kind, IndexKeys) for kind in kinds):
        index_num_heads = config.integer("index_n_heads")
    sparse = any(feed.experts for feed in feeds)
    return Widths(
        vocab_size=vocab_size,
        gated=all(feed.gated for feed in feeds),
        index_num_heads=index_num_heads or 0,
        tied_embeddings=tied,
        dense_layers=tuple(layer for layer, feed in enumerate(feeds) if sparse and feed.mlp and not feed.experts),
        **{name: max((getattr(feed, name) for feed in feeds), default=0) for name in FEED_WIDTHS},
        **{name: config.integer(name, default=0, minimum=0) for name in latent},
    )


def longest_context(config: ConfigReader, *keys: str) -> int | None:
    """The length that a config states, stretched by dynamic NTK scaling of its rotary embedding.

    Other scalings (YaRN, Llama 3's) state the stretched length themselves: vLLM 0.32 ``config/model.py:2595``.
    """
    length, scaling = config.optional_integer(*keys), config.value("rope_scaling")
    if length is None or not isinstance(scaling, Mapping):
        return length
    factor = scaling.get("factor")
    if scaling.get("rope_type", scaling.get("type")) != "dynamic" or not isinstance(factor, (int, float)):
        return length
    return int(length * factor) if 1 < factor < 1000 else length


def with_active(counts: Parameters, idle: int) -> Parameters:
    """The counts with ``active`` set: all parameters but the ``idle`` ones; None for a model without experts."""
    return replace(counts, active=counts.total - idle) if counts.experts else counts


def read_attention_shape(
    config: ConfigReader,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
) -> AttentionShape:
    """The attention of a config: heads, grouped heads and widths.

    ``num_kv_heads`` and ``head_dim`` are the class defaults of a family for absent keys; None means all heads, and
    hidden_size / num_attention_heads. A stated null always means that. Raises SpecError where heads do not divide.
    """
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    kv_heads = read_defaulted(config, "num_key_value_heads", num_kv_heads) or heads
    width = read_defaulted(config, "head_dim", head_dim)
    if width is None and hidden % heads:
        config.wrong("hidden_size", f"{hidden} is no multiple of the {heads} attention heads, and there is no head_dim")
    if heads % kv_heads:
        config.wrong("num_key_value_heads", f"{kv_heads} does not divide the {heads} attention heads")
    return AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width or hidden // heads,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
    )


def read_defaulted(config: ConfigReader, name: str, class_default: int | None) -> int | None:
    """A key whose absence means the class default (with a note) and whose stated null means none."""
    if name not in config.values and class_default is not None:
        config.ignore(name)
        config.note(f"{config.path}{name} is absent: {class_default}, the default of transformers 5.23, is assumed")
        return class_default
    return config.optional_integer(name)


def read_mixture(
    config: ConfigReader,
    hidden_size: int,
    expert_size: int,
    *,
    num_experts: Sequence[str] = ("num_local_experts", "num_experts", "n_routed_experts"),
    num_active: Sequence[str] = ("num_experts_per_tok",),
    shared_size: int = 0,
) -> MixtureShape:
    """The experts of a config, by the names of the two keys that count them. Raises MissingKeyError without them."""
    experts = config.integer(*num_experts)
    active = config.integer(*num_active)
    if active > experts:
        config.wrong(num_active[0], f"must not exceed the {experts} experts, not {active}")
    return MixtureShape(
        hidden_size=hidden_size,
        expert_intermediate_size=expert_size,
        num_experts=experts,
        num_active=active,
        shared_intermediate_size=shared_size,
    )


def read_deepseek_feed_forwards(config: ConfigReader, hidden_size: int, num_layers: int) -> list[FeedForward]:
    """The feed-forward of every layer as DeepSeek-V2 and its descendants spell it.

    A null ``n_routed_experts`` means that every layer is dense. Raises MissingKeyError where a needed size is absent.
    """
    stated_null = "n_routed_experts" in config.values and not config.has("n_routed_experts")
    sparse = num_layers * [False] if stated_null else read_sparse_layers(config, num_layers)
    dense = mixture = FeedForward()
    if not all(sparse):
        bias = config.flag("mlp_bias", default=False)
        dense = dense_feed_forward(hidden_size, config.integer("intermediate_size"), bias)
    if any(sparse):
        size = config.integer("moe_intermediate_size")
        shared_size = size * config.integer("n_shared_experts", default=0, minimum=0)
        counts = ("n_routed_experts", "num_local_experts", "num_experts")
        shape = read_mixture(config, hidden_size, size, num_experts=counts, shared_size=shared_size)
        mixture = mixture_feed_forward(shape)
    return [mixture if is_sparse else dense for is_sparse in sparse]


def check_length(config: ConfigReader, name: str, values: Sequence[object], num_layers: int) -> None:
    """Refuse a per-layer list that does not have one entry per layer."""
    if len(values) != num_layers:
        config.wrong(name, f"has {len(values)} entries for {num_layers} layers")
