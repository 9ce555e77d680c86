"""``size``: how large is the cache. One model, one request, one engine in; a SizeResult out."""

from __future__ import annotations

import math
from dataclasses import replace

from kvplan.core.engine import Allocation, Engine, EngineRequest, Stage
from kvplan.core.geometry import (
    CacheChoice,
    KindStorage,
    PlacedKind,
    check_formats,
    group_kinds,
    place_layers,
    store_kind,
)
from kvplan.core.model import Layer, Model
from kvplan.core.parallel import pipeline_stages
from kvplan.core.request import KindAllocation, SizeRequest, SizeResult
from kvplan.core.weights import WeightFormat, get_weight_format, weights_bytes
from kvplan.planning.request import model_facts
from kvplan.policies.none import POLICY as KEEP_ALL

PlacedLayers = list[tuple[PlacedKind, ...]]


def size_model(
    model: Model, request: SizeRequest, engine: Engine, weight_format: WeightFormat | None = None
) -> SizeResult:
    """The size of the cache that ``request`` needs for ``model`` under ``engine``.

    Raises UsageError or UnsupportedError where the model cannot be split, stored or kept as asked.
    """
    architecture = model.architecture
    request.parallel.check(architecture)
    layers = counted_layers(model, request)
    placed = place_layers(layers, request.choice.kv_format)
    groups = group_kinds(placed, request.choice.policy)
    check_formats(groups, request.choice)
    stored = {item: _store(item, request) for item in groups}
    stages = split_stages(placed, request.parallel.pp, len(architecture.layers))
    replicas = _allocate_replicas(engine, engine_request(model, request, stages), request.concurrency)
    largest = replicas[0]
    weights, weights_certainty = _weights(model, weight_format)
    return SizeResult(
        model=model,
        request=request,
        engine=engine.name,
        engine_version=engine.version,
        textbook_bytes=textbook_bytes(model, request),
        geometry_bytes=request.concurrency * sum(groups[item] * stored[item].total_bytes for item in groups),
        uncompressed_bytes=uncompressed_bytes(layers, request),
        allocated_bytes_per_rank=tuple(
            rank.allocated_bytes for replica in replicas for rank in replica.stages for _ in range(request.parallel.tp)
        ),
        allocated_bytes_per_sequence=request.parallel.tp * sum(rank.sequence_bytes for rank in largest.stages),
        bytes_per_token=math.ceil(sum(groups[item] * stored[item].growth_bytes for item in groups)),
        fixed_bytes_per_sequence=sum(groups[item] * stored[item].fixed_bytes for item in groups),
        window_tokens=tuple(sorted({item.kind.window_tokens for item in groups if item.kind.window_tokens})),
        layers=_kind_allocations(groups, stored, replicas, request),
        stage_layers=tuple(len(stage) for stage in stages),
        weights_bytes=weights,
        weight_format=weight_format.name if weight_format else model.weights.weight_format,
        weights_certainty=weights_certainty,
        certainty=engine.certainty,
        allocation=largest,
        rules=engine,
        bytes_per_block=max((rank.bytes_per_block or 0 for rank in largest.stages), default=0) or None,
        blocks_per_sequence=max((rank.blocks_per_sequence or 0 for rank in largest.stages), default=0) or None,
        warnings=(*_warnings(model, request), *largest.notes),
    )


def engine_request(model: Model, request: SizeRequest, stages: tuple[Stage, ...]) -> EngineRequest:
    """The question for the engine; ``sequences`` are those of the largest replica."""
    return EngineRequest(
        stages=stages,
        facts=model_facts(model),
        choice=request.choice,
        context_tokens=request.context_tokens,
        encoder_tokens=request.encoder_tokens,
        sequences=request.parallel.sequences_per_replica(request.concurrency)[0],
        parallel=request.parallel,
        num_draft_layers=len(model.architecture.draft_layers) if request.include_draft else 0,
        settings=request.settings,
    )


def choose_weight_format(model: Model, name: str | None) -> WeightFormat | None:
    """The format named, else the one of the checkpoint's config, else 16 bits; None where files gave exact bytes.

    Raises UnknownNameError.
    """
    if name is None and model.weights.exact_bytes is not None:
        return None
    return get_weight_format(name or model.weights.weight_format or model.dtype)


def counted_layers(model: Model, request: SizeRequest) -> tuple[Layer, ...]:
    """The decoder's layers, and the draft layers when they are asked for."""
    architecture = model.architecture
    return architecture.layers + (architecture.draft_layers if request.include_draft else ())


def textbook_bytes(model: Model, request: SizeRequest) -> int:
    """``2 x layers x tokens x hidden x bytes per element``, all sequences: the formula that people know.

    It takes every layer for full attention with as many KV heads as query heads, and ignores scales.
    """
    architecture = model.architecture
    elements = 2 * architecture.num_layers * request.context_tokens * architecture.hidden_size
    kv_format = request.choice.kv_format
    bits = (kv_format.key.nominal_bits + kv_format.value.nominal_bits) / 2
    return math.ceil(request.concurrency * elements * bits / 8)


def uncompressed_bytes(layers: tuple[Layer, ...], request: SizeRequest) -> int:
    """The same request in the model's own dtype with every token kept: what compression is measured against."""
    native = CacheChoice(kv_format=request.choice.kv_format.all_native(), policy=KEEP_ALL)
    plain = replace(request, choice=native)
    groups = group_kinds(place_layers(layers, native.kv_format), KEEP_ALL)
    return request.concurrency * sum(count * _store(item, plain).total_bytes for item, count in groups.items())


def _store(item: PlacedKind, request: SizeRequest) -> KindStorage:
    return store_kind(item, request.choice, request.context_tokens, request.encoder_tokens)


def split_stages(placed: PlacedLayers, pp: int, num_layers: int) -> tuple[Stage, ...]:
    """The pipeline stages of a model's placed layers; draft layers follow the ``num_layers`` layers of the decoder."""
    stages, start = [], 0
    for size in pipeline_stages(num_layers, pp):
        stages.append(tuple(placed[start : start + size]))
        start += size
    stages[-1] += tuple(placed[num_layers:])  # draft layers run where the output head is
    return tuple(stages)


def _allocate_replicas(engine: Engine, largest: EngineRequest, concurrency: int) -> tuple[Allocation, ...]:
    """Each data-parallel replica's allocation, the largest first."""
    found: dict[int, Allocation] = {}
    counts = largest.parallel.sequences_per_replica(concurrency)
    for sequences in counts:
        if sequences not in found:
            found[sequences] = engine.allocate(replace(largest, sequences=sequences))
    return tuple(found[sequences] for sequences in counts)


def _kind_allocations(
    groups: dict[PlacedKind, int],
    stored: dict[PlacedKind, KindStorage],
    replicas: tuple[Allocation, ...],
    request: SizeRequest,
) -> tuple[KindAllocation, ...]:
    allocated: dict[PlacedKind, int] = dict.fromkeys(groups, 0)
    tokens: dict[PlacedKind, int] = dict.fromkeys(groups, 0)
    for rank in (rank for replica in replicas for rank in replica.stages):
        for group in rank.groups:
            allocated[group.item] += group.count * group.allocated_bytes * request.parallel.tp
            tokens[group.item] = max(tokens[group.item], group.allocated_tokens)
    return tuple(
        _kind_allocation(item, count, stored[item], allocated[item], tokens[item], request.concurrency)
        for item, count in groups.items()
    )


def _kind_allocation(
    item: PlacedKind, count: int, stored: KindStorage, allocated_bytes: int, allocated_tokens: int, concurrency: int
) -> KindAllocation:
    num_kv_heads, head_dim, v_head_dim = item.kind.head_shape()
    return KindAllocation(
        kind=item.kind.kind,
        count=count,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        window_tokens=item.kind.window_tokens,
        cache_format=item.kv_format.name if item.kind.parts() else None,
        resident_tokens=stored.resident_tokens,
        kept_tokens=stored.kept_tokens,
        allocated_tokens=allocated_tokens,
        bytes_per_token=math.ceil(count * stored.bytes_per_token),
        state_bytes=count * stored.state_bytes,
        geometry_bytes=count * stored.total_bytes * concurrency,
        allocated_bytes=allocated_bytes,
        storage=stored,
    )


def _weights(model: Model, weight_format: WeightFormat | None) -> tuple[int | None, str | None]:
    if weight_format is None and model.weights.exact_bytes is not None:
        return model.weights.exact_bytes, "exact"
    parameters = model.architecture.parameters
    if parameters is None or weight_format is None:
        return None, None
    certainty = "exact" if parameters.certainty == weight_format.certainty == "exact" else "estimate"
    return weights_bytes(parameters, weight_format), certainty


def _warnings(model: Model, request: SizeRequest) -> tuple[str, ...]:
    warnings = [*model.notes, *request.notes]
    longest = model.architecture.max_context_tokens
    if longest is not None and request.context_tokens > longest:
        warnings.append(f"{request.context_tokens} tokens are beyond the model's maximum of {longest}")
    ranks = request.parallel.head_ranks
    heads = {shape for layer in model.architecture.layers for kind in layer if (shape := kind.head_shape()[0])}
    uneven = sorted(count for count in heads if count > ranks and count % ranks)
    if ranks > 1 and uneven:
        warnings.append(f"{uneven[0]} KV heads do not split evenly over {ranks} ranks: each is counted as the largest")
    return tuple(warnings)
