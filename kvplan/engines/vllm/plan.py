"""From a request's layers to groups of blocks, and from groups to what each rank allocates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kvplan.core.attention import IndexKeys, LayerKind
from kvplan.core.engine import EngineRequest, GroupAllocation, RankAllocation, Stage
from kvplan.core.format import KVFormat
from kvplan.core.geometry import PlacedKind
from kvplan.core.policy import Place
from kvplan.core.recurrent import RecurrentKind, StateBuffer
from kvplan.engines.vllm.block_size import align_blocks
from kvplan.engines.vllm.cache_dtypes import layer_word
from kvplan.engines.vllm.capacity import request_blocks
from kvplan.engines.vllm.groups import Group, PlacedSpec, block_bytes, form_groups
from kvplan.engines.vllm.run import Run
from kvplan.engines.vllm.specs import Alignment, CachedLayer, LayerSpec, cached_layer, layer_spec


class Plan(NamedTuple):
    """What vLLM makes of a request.

    ``items`` are the model's distinct kinds, as ``group_kinds`` names them; ``layers`` and ``specs`` are theirs, by
    position; ``counts`` holds how many layers of each item every stage has; ``block_bytes`` the bytes of one block
    on each stage.
    """

    run: Run
    items: tuple[PlacedKind, ...]
    layers: tuple[CachedLayer, ...]
    alignment: Alignment
    specs: tuple[LayerSpec | None, ...]
    groups: tuple[Group, ...]
    counts: tuple[Mapping[int, int], ...]
    block_bytes: tuple[int, ...]

    @property
    def state_kinds(self) -> tuple[RecurrentKind, ...]:
        """The distinct recurrent states."""
        kinds = (item.kind for item in self.items)
        return tuple(kind for kind in kinds if isinstance(kind, RecurrentKind) and not isinstance(kind, StateBuffer))


def make_plan(request: EngineRequest, run: Run) -> Plan:
    """Backends, block size, specs and groups; each distinct kind is looked at once."""
    items, indexed, order = _distinct(request)
    layers = tuple(
        cached_layer(item.kind, layer_word(item.kv_format, run.dtype), beside_index, run)
        for item, beside_index in zip(items, indexed)
    )
    alignment = align_blocks(layers, run)
    specs = tuple(layer_spec(layer, alignment, run) for layer in layers)
    placed = [
        PlacedSpec(spec, stage, position)
        for stage, positions in enumerate(order)
        for position in positions
        if (spec := specs[position]) is not None
    ]
    groups = form_groups(placed, run)
    counts = tuple({position: positions.count(position) for position in set(positions)} for positions in order)
    sizes = tuple(block_bytes(groups, stage, run) for stage in range(len(order)))
    return Plan(run, items, layers, alignment, specs, groups, counts, sizes)


def _distinct(request: EngineRequest) -> tuple[tuple[PlacedKind, ...], list[bool], list[list[int]]]:
    """The distinct kinds in order of first appearance, whether index keys stand beside them in their layer, and each
    stage's layers as positions in them.
    """
    found: dict[tuple[LayerKind, int, bool], int] = {}
    indexed: list[bool] = []
    formats: dict[KVFormat, int] = {}
    numbers: dict[int, int] = {}  # formats are shared by layers and costly to hash: told apart by identity first
    items: list[PlacedKind] = []
    order: list[list[int]] = []
    for stage in request.stages:
        positions = []
        for item, beside_index in _items(stage):
            if id(item.kv_format) not in numbers:
                numbers[id(item.kv_format)] = formats.setdefault(item.kv_format, len(formats))
            key = (item.kind, numbers[id(item.kv_format)], beside_index)
            position = found.setdefault(key, len(items))
            if position == len(items):
                indexed.append(beside_index)
                items.append(PlacedKind(kind=item.kind, kv_format=item.kv_format, place=Place(0, 1)))
            positions.append(position)
        order.append(positions)
    return tuple(items), indexed, order


def _items(stage: Stage) -> Iterator[tuple[PlacedKind, bool]]:
    for layer in stage:
        beside_index = any(isinstance(item.kind, IndexKeys) for item in layer)
        for item in layer:
            yield item, beside_index


def rank_allocation(plan: Plan, stage: int, request: EngineRequest) -> RankAllocation:
    """One rank of a stage: the blocks of all sequences, and the null block that every pool holds back."""
    blocks = request_blocks(plan.groups, request.context_tokens, plan.run)
    size = plan.block_bytes[stage]
    held = _held_blocks(plan, request.context_tokens)
    return RankAllocation(
        groups=tuple(
            _item_allocation(plan, position, count, held.get(position), request.sequences)
            for position, count in plan.counts[stage].items()
        ),
        allocated_bytes=(request.sequences * blocks + 1) * size if size else 0,
        sequence_bytes=blocks * size,
        bytes_per_block=size or None,
        blocks_per_sequence=blocks or None,
    )


def _held_blocks(plan: Plan, tokens: int) -> dict[int, tuple[LayerSpec, int]]:
    """Each item's spec after grouping, and the blocks of it that one sequence holds."""
    held: dict[int, tuple[LayerSpec, int]] = {}
    for group in plan.groups:
        blocks = group.blocks(tokens, plan.run)
        for layer in group.layers:
            held.setdefault(layer.item, (layer.spec, blocks))
    return held


def _item_allocation(
    plan: Plan, position: int, count: int, held: tuple[LayerSpec, int] | None, sequences: int
) -> GroupAllocation:
    spec, blocks = held if held else (None, 0)
    tokens = 0 if spec is None or spec.form == "state" else blocks * spec.block_tokens * spec.split
    return GroupAllocation(
        item=plan.items[position],
        count=count,
        allocated_tokens=tokens,
        allocated_bytes=sequences * blocks * spec.page_bytes if spec else 0,
    )
