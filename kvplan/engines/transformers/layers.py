"""What one layer of a cache holds in transformers 5.23.0, kind by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from kvplan.core.attention import CompressedStream, IndexKeys
from kvplan.core.engine import EngineRequest, Stage
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.part import Part, StateTensor
from kvplan.core.policy import RetentionPolicy
from kvplan.core.recurrent import StateBuffer
from kvplan.engines.transformers.architectures import (
    EXPANDED_HEADS,
    MODEL_DTYPE_STATES,
    SHARDED_KV,
    STATE_ON_MODULES,
    WINDOW_EXTRA,
)

KindCounts = tuple[tuple[PlacedKind, int], ...]
LayerCounts = Mapping[KindCounts, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheQuestion:
    """A request to a cache that grows with its tokens, or to a ``static`` one that does not."""

    request: EngineRequest
    static: bool

    @property
    def family(self) -> str:
        """The architecture family."""
        return self.request.facts.family

    @property
    def length(self) -> int:
        """Rows of a layer that keeps everything: the context, or ``max_cache_len``."""
        return self.request.max_model_len if self.static else self.request.context_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one layer holds of one kind for one sequence, between two steps.

    ``batch_bytes`` are there once for all sequences and ``largest_bytes`` is the largest single tensor. A view keeps
    the tensor that it was cut from: ``viewed_bytes`` more after a prompt, until the next token, and then
    ``newest_bytes`` more, the row that each step adds to a full window.
    """

    item: PlacedKind
    tokens: int = 0
    sequence_bytes: int = 0
    batch_bytes: int = 0
    viewed_bytes: int = 0
    newest_bytes: int = 0
    largest_bytes: int = 0


def group_layers(stage: Stage, policy: RetentionPolicy) -> LayerCounts:
    """Layers that hold the same, each as its kinds and how often it has them, with their count."""
    return Counter(tuple(group_kinds((layer,), policy).items()) for layer in stage)


def hold_layers(layers: LayerCounts, question: CacheQuestion) -> dict[Held, int]:
    """Everything that the layers hold, with how many of them hold the same."""
    counts: Counter[Held] = Counter()
    for layer, count in layers.items():
        for held, times in _hold_layer(layer, question):
            counts[held] += count * times
    return counts


def hold_stage(stage: Stage, question: CacheQuestion) -> dict[Held, int]:
    """Everything that the layers of a stage hold, with how many layers hold the same."""
    return hold_layers(group_layers(stage, question.request.choice.policy), question)


def splits_heads(part: Part, question: CacheQuestion) -> bool:
    """Whether tensor-parallel ranks hold different heads of the part."""
    return part.sharded and question.family in SHARDED_KV


def window_of(limit_tokens: int, question: CacheQuestion) -> int:
    """The window that the model's class takes from a config's."""
    return limit_tokens + WINDOW_EXTRA.get(question.family, 0)


def _hold_layer(layer: KindCounts, question: CacheQuestion) -> Iterator[tuple[Held, int]]:
    rates = [item.kind.tokens_per_row for item, _ in layer if isinstance(item.kind, CompressedStream)]
    for item, times in layer:
        if question.family == "deepseek_v4":
            yield _hold_compressed(item, rates[0] if rates else None, question), times
        else:
            yield _hold_kind(item, question), times


def _hold_kind(item: PlacedKind, question: CacheQuestion) -> Held:
    """Rows of every part, and the state."""
    tokens = total = viewed = newest = largest = batch = 0
    for part in item.kind.parts():
        cache_format = item.kv_format.of(part)
        tokens = _tokens(part, question)
        shard = _cached_part(part, question)
        stored = cache_format.stored_bytes(shard, shard.rows(tokens))
        if _is_cut(part, tokens, question):
            viewed += cache_format.stored_bytes(shard, question.length + part.prefix_tokens) - stored
            newest += cache_format.stored_bytes(shard, 1)
        batch += 4 if cache_format.name == "fp8_e4m3" else 0  # the fp32 scale of ``Fp8QuantizedLayer``
        total += stored
        largest = max(largest, stored)
    states = sum(_state_bytes(state, item, question) for state in item.kind.states())
    return Held(
        item=item,
        tokens=tokens,
        sequence_bytes=total + states,
        batch_bytes=batch,
        viewed_bytes=viewed,
        newest_bytes=newest,
        largest_bytes=largest,
    )


def _tokens(part: Part, question: CacheQuestion) -> int:
    """Tokens whose rows one layer keeps: of a window all but the token to come, unless the cache is static."""
    if part.encoder:
        return question.request.encoder_tokens
    if part.limit_tokens is None:
        return question.length + part.prefix_tokens
    window = window_of(part.limit_tokens, question)
    if not question.static:
        window = window - 1 or question.length  # a slice from -0 on keeps everything
    return min(question.length, window) + part.prefix_tokens


def _is_cut(part: Part, tokens: int, question: CacheQuestion) -> bool:
    """Whether a window keeps a view of its newest ``tokens`` tokens, and not a tensor of its own."""
    whole = question.length + part.prefix_tokens
    return part.limit_tokens is not None and not question.static and tokens < whole


def _cached_part(part: Part, question: CacheQuestion) -> Part:
    """The part with the heads that one rank caches."""
    num_heads = question.request.facts.num_heads
    if question.family in EXPANDED_HEADS and part.num_heads > 1 and num_heads:
        part = replace(part, num_heads=num_heads)
    return part.shard(question.request.parallel.tp) if splits_heads(part, question) else part


def _state_bytes(state: StateTensor, item: PlacedKind, question: CacheQuestion) -> int:
    """A convolution's k columns in the model's dtype, a recurrent state in fp32; whole on every rank."""
    native = _native_bytes(item)
    if state.name == "state":
        return state.elements * (native if question.family in MODEL_DTYPE_STATES else 4)
    kernel = getattr(item.kind, "conv_kernel", 1)
    if kernel == 1 or item.kind.kind in STATE_ON_MODULES:
        return state.elements * native
    return state.elements // (kernel - 1) * kernel * native


def _native_bytes(item: PlacedKind) -> int:
    """Bytes of one element in the dtype that the model is loaded in."""
    return 4 if item.kv_format.key.name == "fp32" else 2


def _hold_compressed(item: PlacedKind, rate: int | None, question: CacheQuestion) -> Held:
    """DeepSeek-V4's own cache classes (``DeepseekV4HCACache``, ``DeepseekV4CSACache``); ``rate`` tokens make a row.

    Plain sliding layers store the shared row as key and as value, the others once. The buffers hold the tokens since
    the last complete group and, where groups overlap, half of the last group's features.
    """
    kind, native = item.kind, _native_bytes(item)
    if isinstance(kind, StateBuffer) and rate is not None:
        rest = question.length % rate
        overlap = rate * kind.width // 2 if kind.rows > rate and question.length >= rate else 0
        return Held(
            item=item,
            tokens=rest,
            sequence_bytes=(rest * kind.width + overlap) * native,
            viewed_bytes=(question.length - rest) * kind.width * native,
        )
    copies = 1 if rate or isinstance(kind, (CompressedStream, IndexKeys)) else 2
    stored = viewed = newest = tokens = 0
    for part in kind.parts():
        tokens = _tokens(part, question)
        row = copies * part.width * native
        stored += part.rows(tokens) * row
        if _is_cut(part, tokens, question):
            viewed += (question.length - tokens) * row
            newest += row
    return Held(
        item=item,
        tokens=tokens,
        sequence_bytes=stored,
        viewed_bytes=viewed,
        newest_bytes=newest,
        largest_bytes=stored // copies,
    )
