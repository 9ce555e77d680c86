"""What one rank allocates, layer by layer: tensors built from heads, widths, tokens and codecs, never from prices.

Contiguous, [sequences, heads, tokens, ...], or paged, [blocks, heads, tokens of a block, ...], where an engine has one
table of blocks for all layers; layers that draw unequal numbers of blocks from one pool are laid out by sequence, and
the blocks that the engine holds back are flat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from kvplan.core.engine import GroupAllocation, RankAllocation, Stage
from kvplan.core.geometry import PlacedKind, place_layers, store_kind
from kvplan.core.part import Part
from kvplan.core.policy import Place
from kvplan.core.units import cdiv
from kvplan.planning.size import counted_layers, split_stages
from kvplan.runtime.verify.own_layouts import Asked, Planned, own_layout
from kvplan.runtime.verify.stored_tensors import DTYPES, TensorShape, flat_tensor, row_tensors, state_tensor


@dataclass(frozen=True, kw_only=True)
class LayerLayout:
    """One layer on one rank. ``predicted_bytes`` is the calculator's; ``own`` says why tensors are flat, if any is.

    ``shaped`` is whether any tensor was built from shapes, so that its bytes prove something.
    """

    index: int
    kind: str
    predicted_bytes: int
    tensors: tuple[TensorShape, ...]
    own: str | None = None

    @property
    def shaped(self) -> bool:
        """Whether a wrong shape would show."""
        return self.own is None and bool(self.tensors or self.predicted_bytes)


@dataclass(frozen=True, kw_only=True)
class RankLayout:
    """One rank of a stage. ``reserved`` is what belongs to no layer; ``paged`` whether axis 0 is the block."""

    stage: int
    layers: tuple[LayerLayout, ...]
    reserved: tuple[TensorShape, ...]
    predicted_bytes: int
    paged: bool = False

    def tensors(self) -> Iterator[TensorShape]:
        """All tensors, in the order in which they are allocated."""
        for layer in self.layers:
            yield from layer.tensors
        yield from self.reserved


@dataclass(frozen=True, kw_only=True)
class _Rank:
    """One rank while its layers are laid out."""

    plan: Planned
    stage: Stage
    allocation: RankAllocation
    num_blocks: int | None

    @property
    def sequences(self) -> int:
        return self.plan.request.parallel.sequences_per_replica(self.plan.request.concurrency)[0]

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.plan.model.dtype]


def rank_layout(plan: Planned, stage: int, num_blocks: int | None = None) -> RankLayout:
    """The layout of a rank of one stage, of the fullest replica; all ranks of a stage are alike.

    ``num_blocks`` is how many a paged cache has, if not those that the requests need. Raises UnsupportedError or
    LookupError where a format has no codec for a part.
    """
    allocation = plan.allocation.stages[stage]
    stages = _stages(plan)
    paged = _one_table(plan, allocation)
    rank = _Rank(
        plan=plan,
        stage=stages[stage],
        allocation=allocation,
        num_blocks=(num_blocks or _held_blocks(allocation)) if paged else None,
    )
    laid_out = tuple(_layer_layouts(rank, sum(map(len, stages[:stage]))))
    predicted = allocation.allocated_bytes
    if paged and num_blocks:
        predicted = num_blocks * (allocation.bytes_per_block or 0)
    rest = predicted - sum(layer.predicted_bytes for layer in laid_out)
    reserved = (flat_tensor("reserved", rest),) if rest > 0 else ()
    return RankLayout(stage=stage, layers=laid_out, reserved=reserved, predicted_bytes=predicted, paged=paged)


def _stages(plan: Planned) -> tuple[Stage, ...]:
    request, architecture = plan.request, plan.model.architecture
    placed = place_layers(counted_layers(plan.model, request), request.choice.kv_format)
    return split_stages(placed, request.parallel.pp, len(architecture.layers))


def _one_table(plan: Planned, rank: RankAllocation) -> bool:
    """Whether all layers hold the same blocks of the same tokens, as rows."""
    stored = [group for group in rank.groups if group.allocated_bytes]
    if not rank.bytes_per_block or not rank.blocks_per_sequence or not stored:
        return False
    tokens = {group.allocated_tokens for group in stored}
    rows = all(_own(plan, group.item, rank) is None for group in stored)
    return rows and len(tokens) == 1 and not tokens.pop() % rank.blocks_per_sequence


def _held_blocks(rank: RankAllocation) -> int:
    """Blocks of all sequences, and those that the engine holds back."""
    assert rank.bytes_per_block
    return rank.allocated_bytes // rank.bytes_per_block


def _own(plan: Planned, item: PlacedKind, rank: RankAllocation) -> str | None:
    kinds = {group.item.kind for group in rank.groups if group.allocated_bytes}
    return own_layout(Asked(item, plan, len(kinds)))


def _layer_layouts(rank: _Rank, first_layer: int) -> Iterator[LayerLayout]:
    waiting = _groups_by_item(rank.allocation)
    per_layer = getattr(rank.plan.request.choice.policy, "per_layer", False)
    for index, layer in enumerate(rank.stage, start=first_layer):
        found = [
            _item_layout(rank, item, group)
            for item in layer
            if (group := next(waiting[item if per_layer else replace(item, place=Place(0, 1))], None))
        ]
        stored = [part for part in found if part.tensors or part.predicted_bytes]
        yield LayerLayout(
            index=index,
            kind=" + ".join(part.kind for part in stored) or " + ".join(item.kind.kind for item in layer) or "none",
            predicted_bytes=sum(part.predicted_bytes for part in stored),
            tensors=tuple(tensor for part in stored for tensor in part.tensors),
            own=next((part.own for part in stored if part.own), None),
        )


def _groups_by_item(rank: RankAllocation) -> defaultdict[PlacedKind, Iterator[GroupAllocation]]:
    """What each layer of an item is given, in turn: an engine may tell layers apart that geometry does not.

    A layer that the engine does not state is given nothing, and is part of what belongs to no layer.
    """
    found: dict[PlacedKind, list[GroupAllocation]] = defaultdict(list)
    for group in rank.groups:
        found[group.item] += [group] * group.count
    return defaultdict(lambda: iter(()), {item: iter(groups) for item, groups in found.items()})


def _item_layout(rank: _Rank, item: PlacedKind, group: GroupAllocation) -> LayerLayout:
    own = _own(rank.plan, item, rank.allocation) if group.allocated_bytes else None
    predicted = group.allocated_bytes
    if own is not None:
        tensors: tuple[TensorShape, ...] = (flat_tensor(item.kind.kind, predicted),)
    elif rank.num_blocks is not None:
        per_sequence = rank.allocation.blocks_per_sequence or 1
        predicted = predicted * rank.num_blocks // (rank.sequences * per_sequence)
        block = _engine_rows(rank, item, group.allocated_tokens // per_sequence)
        tensors = tuple(tensor.repeat(rank.num_blocks) for tensor in block)
    elif rank.plan.engine == "none":
        tensors = tuple(tensor.repeat(rank.sequences) for tensor in _geometry(rank, item))
    elif rest := _shared_rows(rank, item, group):
        tensors = _engine_rows(rank, item, rank.sequences * group.allocated_tokens + rest)
    else:
        tensors = tuple(tensor.repeat(rank.sequences) for tensor in _engine_rows(rank, item, group.allocated_tokens))
    return LayerLayout(index=0, kind=item.kind.kind, predicted_bytes=predicted, tensors=tensors, own=own)


def _shared_rows(rank: _Rank, item: PlacedKind, group: GroupAllocation) -> int:
    """Tokens of a pool that all sequences share beyond what each has of it, which is rounded down: fewer than them."""
    row_bytes = sum(tensor.nbytes for tensor in _engine_rows(rank, item, rank.plan.request.parallel.dcp))
    if not row_bytes:
        return 0
    rest = group.allocated_bytes // row_bytes - rank.sequences * group.allocated_tokens
    return rest if 0 < rest < rank.sequences else 0


def _engine_rows(rank: _Rank, item: PlacedKind, tokens: int) -> tuple[TensorShape, ...]:
    """The rows of ``tokens`` tokens of every head that a rank holds; engines count those of all ``dcp`` ranks."""
    parallel = rank.plan.request.parallel
    parts = [part.shard(parallel.head_ranks) for part in item.kind.parts()]
    return tuple(
        tensor
        for part in parts
        for tensor in row_tensors(
            item.kv_format.of(part), _plain(part), part.rows(cdiv(tokens, parallel.dcp)), rank.dtype
        )
    )


def _geometry(rank: _Rank, item: PlacedKind) -> tuple[TensorShape, ...]:
    """The rows that the policy keeps, tier by tier, and the state: one sequence without an engine."""
    request = rank.plan.request
    stored = store_kind(
        item,
        request.choice,
        request.context_tokens,
        request.encoder_tokens,
        request.parallel.head_ranks,
        request.parallel.dcp,
    )
    rows = tuple(
        tensor
        for part in stored.parts
        for tensor in row_tensors(part.cache_format, _plain(part.part), part.rows, rank.dtype)
    )
    return rows + tuple(state_tensor(state, rank.dtype) for state in stored.states)


def _plain(part: Part) -> Part:
    """The part without what decides how many rows it has: equal rows are encoded once."""
    return Part(name=part.name, num_heads=part.num_heads, width=part.width)
