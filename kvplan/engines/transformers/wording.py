"""The words beside the figures: equations, why they differ from geometry, and what they leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvplan.core.engine import GroupAllocation, RankAllocation
from kvplan.core.units import format_bytes
from kvplan.engines.transformers.architectures import (
    EXPANDED_HEADS,
    OWN_CACHE,
    STATE_ON_MODULES,
    WHOLE_KV,
    WINDOW_EXTRA,
    WITH_CLASS,
)
from kvplan.engines.transformers.layers import CacheQuestion, Held, hold_stage, window_of


def explain(stages: tuple[RankAllocation, ...], question: CacheQuestion) -> Iterator[str]:
    """One line per group of equal layers, with the rule that limits its tokens, and the rules' source."""
    sequences = question.request.sequences
    for rank in stages:
        for group in rank.groups:
            if group.allocated_bytes == 0:
                continue
            rows = f"{_rule(group, question)}, " if group.item.kind.parts() else ""
            batch = f" for {sequences:,} sequences" if sequences > 1 else ""
            yield (
                f"{group.item.kind.kind.replace('_', ' ')}: {rows}{group.allocated_bytes:,} bytes a layer{batch}"
                f" x {group.count} layers = {group.count * group.allocated_bytes:,}"
            )
    yield f"rules: cache_utils.py ({'StaticCache' if question.static else 'DynamicCache'}) and the models' own code"


def _rule(group: GroupAllocation, question: CacheQuestion) -> str:
    part = group.item.kind.parts()[0]
    if part.encoder or part.limit_tokens is None:
        return f"{group.allocated_tokens:,} tokens"
    window = window_of(part.limit_tokens, question)
    limit = f"{window:,}" if question.static else f"{window:,} - 1"
    return f"min({question.length:,}, {limit}) = {group.allocated_tokens:,} tokens"


def reasons(question: CacheQuestion) -> Iterator[str]:
    """Why this is not what geometry says."""
    kinds = {item.kind for stage in question.request.stages for layer in stage for item in layer}
    if question.static:
        yield f"a static cache has {question.length:,} tokens from the first one on"
    elif any(kind.window_tokens for kind in kinds):
        yield "a sliding layer keeps its window less the token to come"
    if question.family in WINDOW_EXTRA:
        yield "this class makes the window one token longer than the config"
    if question.family in EXPANDED_HEADS and any(kind.head_shape()[0] != 1 for kind in kinds):
        yield f"every one of the {question.request.facts.num_heads} query heads is cached"
    if any(getattr(kind, "conv_kernel", 1) > 1 and kind.kind not in STATE_ON_MODULES for kind in kinds):
        yield "a convolution keeps as many columns as its kernel is wide"
    if question.family == "deepseek_v4":
        yield "plain sliding layers store the shared row twice, and compressors buffer only unfinished groups"


def notes(question: CacheQuestion) -> Iterator[str]:
    """What is held besides, for a moment or elsewhere, and what the engine does not do."""
    yield from _moments(question)
    request, family = question.request, question.family
    if family in OWN_CACHE:
        yield f"{OWN_CACHE[family]}: cache_implementation is ignored"
    elif family not in WITH_CLASS:
        yield "transformers has no class for this architecture: the repository's own code decides what is cached"
    if request.facts.kv_scheme:
        yield f"the checkpoint asks for a cache in {request.facts.kv_scheme}: transformers does not follow that"
    if request.parallel.tp > 1 and family in WHOLE_KV:
        yield "every rank caches all heads: the tensor-parallel plan of this architecture splits no keys"
    if request.parallel.pp > 1:
        yield "stages are counted as equal shares of the layers; device_map may place them otherwise"


def _moments(question: CacheQuestion) -> Iterator[str]:
    """Bytes beyond the count on the fullest rank: views, copies, and state outside the cache."""
    ranks = [hold_stage(stage, question) for stage in question.request.stages]

    def most(bytes_of: Callable[[Held], int]) -> int:
        """Of all layers of the fullest rank and all sequences."""
        fullest = max(sum(bytes_of(held) * count for held, count in rank.items()) for rank in ranks)
        return question.request.sequences * fullest

    def largest(bytes_of: Callable[[Held], int]) -> int:
        """Of the largest layer and all sequences."""
        return question.request.sequences * max((bytes_of(held) for rank in ranks for held in rank), default=0)

    if viewed := most(lambda held: held.viewed_bytes):
        newest = most(lambda held: held.newest_bytes)
        yield (
            f"right after the prompt views hold {format_bytes(viewed)} more, until the next token frees them;"
            f" while it generates, {format_bytes(newest)} more"
        )
    kv_format = question.request.choice.kv_format
    copied = largest(lambda held: held.largest_bytes)
    if kv_format.key.nominal_bits < kv_format.native.nominal_bits:
        restored = largest(_restored_bytes)
        yield f"each token restores a layer in the model's dtype: {format_bytes(restored)} more for a moment"
    elif copied and not question.static:
        yield f"each token copies a layer's tensor to grow it: {format_bytes(copied)} more for a moment"
    if outside := most(_module_bytes):
        yield f"{format_bytes(outside)} of recurrent state lie on the model's modules, not in its cache"


def _restored_bytes(held: Held) -> int:
    native = held.item.kv_format.native
    return sum(native.stored_bytes(part, part.rows(held.tokens)) for part in held.item.kind.parts())


def _module_bytes(held: Held) -> int:
    return held.sequence_bytes if held.item.kind.kind in STATE_ON_MODULES else 0
