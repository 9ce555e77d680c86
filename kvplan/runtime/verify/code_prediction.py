"""What each layer of a model's own cache, and of a compressed one, holds by the calculator: the spec's side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kvplan.core.attention import HeadedKind, IndexKeys, Latent, LayerKind, SlidingWindow
from kvplan.core.engine import EngineRequest
from kvplan.core.geometry import CacheChoice, place_layers, store_kind
from kvplan.core.model import Layer, Model
from kvplan.core.recurrent import StateBuffer
from kvplan.engines import get_engine
from kvplan.engines.transformers.architectures import EXPANDED_HEADS, WINDOW_EXTRA
from kvplan.formats import parse_kv_format
from kvplan.planning.request import model_facts
from kvplan.policies.none import POLICY as KEEP_ALL

STATE_ON_MODULES = "rg_lru"
"""The kind whose state transformers keeps on the model's modules (RecurrentGemma)."""

ROWS_TWICE = frozenset({"deepseek_v4"})
"""Families whose plain sliding layers store their shared row as key and as value."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How often and how long the code runs: ``batch`` sequences of ``tokens`` tokens, ``encoder_tokens`` to attend."""

    batch: int = 1
    tokens: int
    encoder_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """What one layer holds, all sequences: in the cache, of the encoder's tokens, and on the model's modules."""

    kinds: str
    by_kind: Mapping[LayerKind, int] = field(default_factory=dict)
    own: int = 0
    cross: int = 0
    modules: int = 0


def predict_native(model: Model, run: Run, engine: str = "transformers") -> list[LayerBytes]:
    """Every layer under an engine that keeps the model's own dtype, each asked as a pipeline stage of its own."""
    kv_format = parse_kv_format(model.dtype, model.dtype)
    request = EngineRequest(
        stages=tuple((layer,) for layer in place_layers(model.architecture.layers, kv_format)),
        facts=model_facts(model),
        choice=CacheChoice(kv_format=kv_format, policy=KEEP_ALL),
        context_tokens=run.tokens,
        encoder_tokens=run.encoder_tokens,
        sequences=run.batch,
    )
    stages = get_engine(engine).allocate(request).stages
    return [
        _layer_bytes(layer, {group.item.kind: group.count * group.allocated_bytes for group in rank.groups})
        for layer, rank in zip(model.architecture.layers, stages)
    ]


def predict_compressed(model: Model, run: Run, choice: CacheChoice) -> list[LayerBytes]:
    """Every layer in a ``CompressedCache``: rows as geometry prices them, the rest as transformers keeps it."""
    layers = []
    placed = place_layers(model.architecture.layers, choice.kv_format)
    for layer, native, items in zip(model.architecture.layers, predict_native(model, run), placed):
        stored = dict(native.by_kind)
        for item in items if is_compressed(layer) else ():
            if item.kind.parts() and not _holds_encoder(item.kind):
                cached = replace(item, kind=_as_cached(item.kind, model))
                price = store_kind(cached, choice, run.tokens, run.encoder_tokens).total_bytes
                stored[item.kind] = run.batch * price
        layers.append(_layer_bytes(layer, stored))
    return layers


def other_release(model: Model, version: str) -> str | None:
    """Why this release of transformers does not keep to the rules, which are those of 5.23.0; None where it does."""
    release = tuple(int(number) for number in version.split(".")[:2])
    for departs, since, words in _EARLIER_RELEASES:
        if release < since and departs(model):
            return f"transformers {version} {words} since {'.'.join(map(str, since))}"
    return None


def _has_sparse_latents(model: Model) -> bool:
    kinds = [kind for layer in model.architecture.layers for kind in layer]
    sparse = any(isinstance(kind, IndexKeys) for kind in kinds)
    return model.family != "deepseek_v4" and sparse and any(isinstance(kind, Latent) for kind in kinds)


_EARLIER_RELEASES = (
    (_has_sparse_latents, (5, 18), "caches the expanded heads of sparse latent attention, and latents"),
    (lambda model: model.family in WINDOW_EXTRA, (5, 20), "keeps a window of 128 tokens where the class has had 129"),
)
"""Who departs, since which release no longer, and how: 5.17.0 run against every packaged config, and the sources of
5.17 to 5.22 for the release in which it changed."""


def is_compressed(layer: Layer) -> bool:
    """Whether the layer's rows are keys and values, or latents, without an index or a stream of their own."""
    rows = [kind for kind in layer if kind.parts() and not _holds_encoder(kind)]
    return all(isinstance(kind, (HeadedKind, Latent)) for kind in rows) and not any(
        isinstance(kind, StateBuffer) for kind in layer
    )


def _layer_bytes(layer: Layer, by_kind: Mapping[LayerKind, int]) -> LayerBytes:
    """What the kinds of a layer hold, by the place that it lies in."""
    held = {"own": 0, "cross": 0, "modules": 0}
    for kind, size in by_kind.items():
        held["modules" if kind.kind == STATE_ON_MODULES else "cross" if _holds_encoder(kind) else "own"] += size
    return LayerBytes(kinds=kinds_of(layer), by_kind=by_kind, **held)


def _holds_encoder(kind: LayerKind) -> bool:
    return any(part.encoder for part in kind.parts())


def kinds_of(layer: Layer) -> str:
    """The kinds that a layer keeps, as a report names them."""
    return "+".join(kind.kind for kind in layer)


def _as_cached(kind: LayerKind, model: Model) -> LayerKind:
    """The kind with the heads and the window that the model's class caches."""
    heads = model.architecture.num_heads
    if isinstance(kind, HeadedKind) and kind.num_kv_heads > 1 and heads and model.family in EXPANDED_HEADS:
        kind = replace(kind, num_kv_heads=heads)
    if isinstance(kind, SlidingWindow):
        kind = replace(kind, window=kind.window + WINDOW_EXTRA.get(model.family, 0))
    if isinstance(kind, Latent) and kind.window and model.family in ROWS_TWICE:
        width = kind.kv_lora_rank + kind.qk_rope_head_dim
        kind = SlidingWindow(num_kv_heads=1, head_dim=width, window=kind.window)
    return kind
