"""How layers share block tables: equal pages, equal counts, and one table per group.

vLLM 0.32.0 ``v1/core/kv_cache_utils.py:1171-1600`` and ``:1860-2250``. Groups are formed over all pipeline stages
together; each stage then holds its own layers of every group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from kvplan.core.errors import UnsupportedError
from kvplan.core.units import cdiv
from kvplan.engines.vllm.run import Run
from kvplan.engines.vllm.specs import LayerSpec


class PlacedSpec(NamedTuple):
    """One layer's spec, the pipeline stage that holds it, and which of the stage's distinct items it is."""

    spec: LayerSpec
    stage: int
    item: int


class Group(NamedTuple):
    """Layers that share a block table; a request holds the same number of blocks of each."""

    layers: tuple[PlacedSpec, ...]

    def blocks(self, tokens: int, run: Run) -> int:
        """Blocks of one request: those of the layer that needs most."""
        return max(spec.blocks(tokens, run) for spec in {layer.spec.form: layer.spec for layer in self.layers}.values())

    def stage_bytes(self, stage: int) -> int:
        """Bytes of one block on a stage: the pages of the stage's layers."""
        return sum(layer.spec.page_bytes for layer in self.layers if layer.stage == stage)


def form_groups(layers: Sequence[PlacedSpec], run: Run) -> tuple[Group, ...]:
    """The groups of all layers. Raises UnsupportedError where vLLM cannot give them one page size."""
    if not layers:
        return ()
    specs = {layer.item: layer.spec for layer in layers}  # few: whatever compares specs looks at these alone
    if uniform_type(specs.values()):
        return (Group(tuple(layers)),)
    if run.traits.compressed and len({spec.page_bytes for spec in specs.values()}) > 1:
        return _packed_groups(layers, specs) if run.rules.packs_pages else _tuple_groups(layers)
    try:
        unified = unify_pages(specs, run)
    except UnsupportedError:
        promoted = _promote_windows(layers)
        if promoted is None:
            raise
        return (Group(promoted),)
    return _equal_groups([layer._replace(spec=unified[layer.item]) for layer in layers], unified)


def uniform_type(specs: Iterable[LayerSpec]) -> bool:
    """Whether layers always need equally many blocks, so that one group holds them with pages of their own."""
    return len(set(map(_type_of, specs))) == 1


def _type_of(spec: LayerSpec) -> tuple[object, ...]:
    """What layers of one type agree in (``UniformTypeKVCacheSpecs.is_uniform_type``)."""
    shared = (spec.form, spec.block_tokens, spec.split)
    if spec.form in ("sliding", "chunked"):
        return (*shared, spec.limit_tokens, spec.latent)
    if spec.form == "state":
        return (*shared, spec.page_bytes, spec.held_blocks)
    return shared if spec.form == "full" else (*shared, spec.page_bytes, spec.cell)


def unify_pages(specs: Mapping[int, LayerSpec], run: Run) -> dict[int, LayerSpec]:
    """Every item's spec with the largest page: more tokens in a block where that divides, else padding.

    States are padded; latent rows cannot be (``kv_cache_utils.py:1292``).
    """
    largest = max(spec.page_bytes for spec in specs.values())
    unified = {}
    for item, spec in specs.items():
        if spec.page_bytes == largest or spec.form == "state":
            unified[item] = replace(spec, page_bytes=largest)
        elif largest % spec.page_bytes == 0:
            ratio = largest // spec.page_bytes
            unified[item] = replace(spec, page_bytes=largest, block_tokens=spec.block_tokens * ratio)
        elif not spec.latent:
            unified[item] = replace(spec, page_bytes=largest)
        else:
            raise UnsupportedError(
                f"vLLM {run.rules.version} cannot give pages of {spec.page_bytes} and {largest} bytes one size"
            )
    return unified


def _equal_groups(layers: Sequence[PlacedSpec], specs: Mapping[int, LayerSpec]) -> tuple[Group, ...]:
    """Buckets of equal layers, each split into groups of as many layers as the smallest bucket has.

    Where the largest bucket has less than 1.5 times as many, groups are as large as that one instead: the others
    then waste little (``kv_cache_utils.py:1362``). Layers are dealt in turn, so that every stage holds its share.
    """
    buckets = _buckets(layers, specs)
    smallest, largest = (pick(map(len, buckets)) for pick in (min, max))
    size = largest if largest < 1.5 * smallest else smallest
    return tuple(
        Group(tuple(bucket[index :: cdiv(len(bucket), size)]))
        for bucket in buckets
        for index in range(cdiv(len(bucket), size))
    )


def _buckets(layers: Sequence[PlacedSpec], keys: Mapping[int, Hashable]) -> list[list[PlacedSpec]]:
    """Layers whose items have equal keys together, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    number_of = {item: numbers.setdefault(key, len(numbers)) for item, key in keys.items()}
    buckets: dict[int, list[PlacedSpec]] = {}
    for layer in layers:
        buckets.setdefault(number_of[layer.item], []).append(layer)
    return list(buckets.values())


def _promote_windows(layers: Sequence[PlacedSpec]) -> tuple[PlacedSpec, ...] | None:
    """Plain windows beside latent attention kept in full, in one group; None where that does not help."""
    forms = {(layer.spec.form, layer.spec.latent) for layer in layers}
    if forms != {("full", True), ("sliding", False)}:
        return None
    block = next(layer.spec.block_tokens for layer in layers if layer.spec.form == "full")
    promoted = tuple(
        layer
        if layer.spec.form == "full"
        else layer._replace(
            spec=replace(
                layer.spec,
                form="full",
                block_tokens=block,
                page_bytes=layer.spec.page_bytes // layer.spec.block_tokens * block,
            )
        )
        for layer in layers
    )
    return promoted if uniform_type(layer.spec for layer in promoted) else None


def _packed_groups(layers: Sequence[PlacedSpec], specs: Mapping[int, LayerSpec]) -> tuple[Group, ...]:
    """DeepSeek-V4: layers of one type pack into a block whatever their pages (``kv_cache_utils.py:1860``).

    Buckets of equal layer counts per page size repeat a pattern; the largest such bucket stays whole, and the
    others are split towards as many repeats.
    """
    buckets = _buckets(layers, {item: _type_of(spec) for item, spec in specs.items()})
    pages = [_layers_by_page(bucket) for bucket in buckets]
    balanced = [len(set(map(len, page.values()))) == 1 for page in pages]
    repeats = [max(map(len, page.values())) for page in pages]
    mixed = [count for count, page, even in zip(repeats, pages, balanced) if even and len(page) > 1]
    size = _approximate_gcd([n for n, even in zip(repeats, balanced) if even], max(mixed)) if mixed else None
    groups = []
    for bucket, page, even, count in zip(buckets, pages, balanced, repeats):
        number = cdiv(count, size) if even and size else 1
        patterns = list(zip(*page.values())) if number > 1 else [tuple(bucket)]
        groups += [
            Group(tuple(layer for repeat in patterns[index::number] for layer in repeat)) for index in range(number)
        ]
    return tuple(groups)


def _tuple_groups(layers: Sequence[PlacedSpec]) -> tuple[Group, ...]:
    """DeepSeek-V4 in 0.25: the full layers' pages make a tuple, and every other layer is padded to one of them.

    Layers of one window and block size are dealt over as many groups as tuples fit (0.25
    ``kv_cache_utils.py:1572``).
    """
    full = [layer for layer in layers if layer.spec.form == "full"]
    pages = sorted({layer.spec.page_bytes for layer in full})
    windows: dict[tuple[int, int], dict[int, list[PlacedSpec]]] = {}
    for layer in (layer for layer in layers if layer.spec.form != "full"):
        page = min(size for size in pages if size >= layer.spec.page_bytes)
        key = (layer.spec.block_tokens, layer.spec.limit_tokens)
        padded = layer._replace(spec=replace(layer.spec, page_bytes=page))
        windows.setdefault(key, {}).setdefault(page, []).append(padded)
    tuples = max(map(len, _layers_by_page(full).values()))
    counts = [len(next(iter(window.values()))) for window in windows.values()]
    size = _approximate_gcd([tuples, *counts], tuples)
    groups = [Group(tuple(full))]
    for window, count in zip(windows.values(), counts):
        number = cdiv(count, size)
        dealt = list(zip(*window.values()))
        groups += [Group(tuple(layer for repeat in dealt[i::number] for layer in repeat)) for i in range(number)]
    return tuple(groups)


def block_bytes(groups: Sequence[Group], stage: int, run: Run) -> int:
    """Bytes of one block on a stage: the largest group's pages, or room for every size of page that a group has."""
    if run.rules.packs_pages or not run.traits.compressed:
        return max((group.stage_bytes(stage) for group in groups), default=0)
    most: Counter[int] = Counter()
    for group in groups:
        most |= Counter(layer.spec.page_bytes for layer in group.layers if layer.stage == stage)
    return sum(page * count for page, count in most.items())


def checked_bytes(groups: Sequence[Group], stage: int, run: Run) -> int:
    """What the check at the start takes for a block on a stage: the block's bytes, or whole tuples before 0.26."""
    if run.rules.packs_pages or not run.traits.compressed:
        return block_bytes(groups, stage, run)
    held = [[layer for layer in group.layers if layer.stage == stage] for group in groups]
    tuples = max((max(map(len, _layers_by_page(layers).values())) for layers in held if layers), default=0)
    return tuples * sum({layer.spec.page_bytes for layer in held[0]})


def logged_blocks(groups: Sequence[Group], tokens: int, run: Run) -> int:
    """Blocks by which the logged concurrency divides: one request's, which before 0.26 were counted in DeepSeek-V4's
    first group's pages (0.25 ``kv_cache_utils.py:919``).
    """
    if run.rules.packs_pages or not run.traits.compressed:
        return sum(group.blocks(tokens, run) for group in groups)
    return cdiv(sum(group.blocks(tokens, run) * group.stage_bytes(0) for group in groups), groups[0].stage_bytes(0))


def _layers_by_page(bucket: Sequence[PlacedSpec]) -> dict[int, list[PlacedSpec]]:
    found: dict[int, list[PlacedSpec]] = {}
    for layer in bucket:
        found.setdefault(layer.spec.page_bytes, []).append(layer)
    return found


def _approximate_gcd(values: Sequence[int], lower_bound: int) -> int:
    """The size that, rounding every value up to a multiple of it, adds least; the largest such (``:1825``)."""
    sizes = range(lower_bound, max(values) + 1)
    return min(sizes, key=lambda size: (sum(-value % size for value in values), -size), default=lower_bound)
