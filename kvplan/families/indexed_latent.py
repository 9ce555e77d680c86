"""Descendants of DeepSeek-V3.2 with changes of their own: A.X-K2, Hunyuan 4 and Mistral Large 4.

All cache a latent and, where a layer computes its own index, index keys. Mistral Large 4 drops the rotary key in
every fourth layer and may let a layer read an earlier layer's latent. Key names and shapes: transformers 5.23
``models/axk2``, ``models/hy_v4`` and ``models/mistral_large4``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvplan.core.attention import LayerKind, Shared
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import Block, check_length, decoder, read_deepseek_feed_forwards, read_defaulted
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.latent_attention import IndexerShape, LatentShape, read_index_layers, read_latent_shape
from kvplan.core.model import Architecture, Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mixer:
    """One layer's attention: what it stores, its parameters, and those of its norms and residual mixing."""

    layer: Layer
    parameters: int
    norms: int
    other: int = 0


def _read(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    types = config.texts("layer_types", allowed=("indexed_attention",))
    if types is not None:
        check_length(config, "layer_types", types, num_layers)
    if not config.has("mlp_layer_types"):  # one dense layer is the default of all three classes
        config.complete({"first_k_dense_replace": read_defaulted(config, "first_k_dense_replace", 1)})
    feeds = read_deepseek_feed_forwards(config, hidden, num_layers)
    sparse = [bool(feed.experts) for feed in feeds]
    model_type = config.text("model_type", default="axk2")
    mixers = _READERS[model_type](config, hidden, heads, sparse)
    blocks = [
        Block(layer=mixer.layer, attention=mixer.parameters, norms=mixer.norms, other=mixer.other, feed_forward=feed)
        for mixer, feed in zip(mixers, feeds)
    ]
    num_draft = config.integer("num_nextn_predict_layers", "num_mtp_layers", default=0, minimum=0)
    return decoder(
        config,
        blocks,
        hidden_size=hidden,
        num_heads=heads,
        draft=num_draft * [max(blocks, key=lambda block: block.total)],
        other=_final_collapse(config, hidden) if model_type == "hy_v4" else 0,
    )


def _read_indexer(config: ConfigReader, hidden: int, q_lora_rank: int) -> IndexerShape:
    return IndexerShape(
        hidden_size=hidden,
        q_lora_rank=q_lora_rank,
        num_heads=config.integer("index_n_heads"),
        head_dim=config.integer("index_head_dim"),
    )


def _query_rank(config: ConfigReader, latent: LatentShape) -> int:
    if latent.q_lora_rank is None:
        config.wrong("q_lora_rank", "must not be null: the indexer reads the query latent")
    return latent.q_lora_rank


def _axk2(config: ConfigReader, hidden: int, heads: int, sparse: Sequence[bool]) -> list[_Mixer]:
    """A.X-K2: queries and output gate in one projection of the doubled query latent, norms with low-rank gates."""
    latent = read_latent_shape(config, hidden, heads)
    rank = _query_rank(config, latent)
    indexer = _read_indexer(config, hidden, rank)
    query = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    fused = linear(2 * rank, query + heads * latent.v_head_dim) - linear(rank, query)
    gate = 2 * linear(hidden, config.integer("gated_norm_rank"))
    return [
        _Mixer(
            layer=(latent.kind(), indexer.kind()),
            parameters=latent.parameters() + fused + indexer.parameters(),
            norms=2 * hidden + gate * (2 if is_sparse else 1),
        )
        for is_sparse in sparse
    ]


def _hy_v4(config: ConfigReader, hidden: int, heads: int, sparse: Sequence[bool]) -> list[_Mixer]:
    """Hunyuan 4: an output gate and a sink per head, and hyper-connections without a mixing matrix."""
    num_layers = len(sparse)
    latent = read_latent_shape(config, hidden, heads)
    indexer = _read_indexer(config, hidden, _query_rank(config, latent))
    if not config.has("indexer_types"):
        config.complete({"index_topk_freq": 4})
        config.note("indexer_types is absent: layers 0, 1, 5, 9, … have an index, the default of transformers 5.23")
    streams = config.integer("hc_mult")
    mixing = 2 * streams * (streams * hidden + 1) + 2
    attention = latent.parameters() + linear(hidden, heads * latent.v_head_dim) + heads
    return [
        _Mixer(
            layer=(latent.kind(), indexer.kind()) if own else (latent.kind(),),
            parameters=attention + (indexer.parameters() if own else 0),
            norms=2 * hidden,
            other=2 * mixing,
        )
        for own in read_index_layers(config, num_layers)
    ]


def _final_collapse(config: ConfigReader, hidden: int) -> int:
    """The weights that sum Hunyuan 4's residual streams after the last layer."""
    streams = config.integer("hc_mult")
    return streams * (streams * hidden + 1) + 1


def _mistral_large4(config: ConfigReader, hidden: int, heads: int, sparse: Sequence[bool]) -> list[_Mixer]:
    """Mistral Large 4: queries in one step with a learned scale, layers without rotary key, shared latents."""
    num_layers = len(sparse)
    config.complete({"q_lora_rank": None})
    latent = read_latent_shape(config, hidden, heads)
    indexer = _read_indexer(config, hidden, hidden)
    # its own input norm, and a scale and a bias for every index head
    index_parameters = indexer.parameters() + 2 * hidden + 2 * indexer.num_heads
    sources = _read_sources(config, num_layers)
    mixers = []
    for index, (own, rotary) in enumerate(zip(read_index_layers(config, num_layers), _rotary(config, num_layers))):
        shape = latent if rotary else _without_rotary(latent)
        kinds: tuple[LayerKind, ...] = (shape.kind(),)
        parameters = shape.parameters() + 2 * heads
        if sources[index] != index:
            kinds = (Shared(source_layer=sources[index]),)
            parameters -= linear(hidden, shape.kv_lora_rank + shape.qk_rope_head_dim, shape.bias) + shape.kv_lora_rank
        if own:
            kinds, parameters = (*kinds, indexer.kind()), parameters + index_parameters
        mixers.append(_Mixer(layer=kinds, parameters=parameters, norms=2 * hidden))
    return mixers


def _without_rotary(latent: LatentShape) -> LatentShape:
    """The same widths with every element of the key unrotated: all of the key comes from the latent."""
    nope = latent.qk_nope_head_dim + latent.qk_rope_head_dim
    return replace(latent, qk_nope_head_dim=nope, qk_rope_head_dim=0)


def _rotary(config: ConfigReader, num_layers: int) -> list[bool]:
    """Which layers have a rotary key: ``no_rope_layers`` holds 1 for those that do (smollm3's convention)."""
    stated = config.integers("no_rope_layers")
    interval = config.integer("no_rope_layer_interval", default=4)
    if stated is None:
        return [bool((layer + 1) % interval) for layer in range(num_layers)]
    if len(stated) < num_layers:
        config.wrong("no_rope_layers", f"has {len(stated)} entries for {num_layers} layers")
    return [bool(entry) for entry in stated[:num_layers]]


def _read_sources(config: ConfigReader, num_layers: int) -> list[int]:
    """For each layer the layer whose latent it reads: its own index, or an earlier layer that has its own."""
    sources = config.integers("kv_source_layers")
    if sources is None:
        return list(range(num_layers))
    check_length(config, "kv_source_layers", sources, num_layers)
    for layer, source in enumerate(sources):
        if source > layer or sources[source] != source:
            config.wrong("kv_source_layers", f"lets layer {layer} read layer {source}, which has no cache of its own")
    return sources


_READERS = {"axk2": _axk2, "hy_v4": _hy_v4, "mistral_large4_text": _mistral_large4}

FAMILY = Family(
    name="indexed_latent",
    model_types=tuple(_READERS),
    read=_read,
    neutral_keys=frozenset({"ep_size", "index_topk", "indexer_rope_interleave", "learnable_sink_init", "hc_eps"}),
)
