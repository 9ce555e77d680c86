"""Hugging Face transformers 5.23.0: the cache that ``generate`` builds, as ``cache_utils.py`` and the models keep it.

Options: ``--engine transformers:cache=static`` names the cache as ``cache_implementation`` does: ``dynamic`` (the
default), ``static`` or ``quantized``; a quantized ``--kv-dtype`` (quanto4, hqq4, fp8) means ``quantized`` by itself.
The rules are those of release 5.23.0, each seen by running its model code (``tests/parity/transformers_models.py``):

* dynamic: a tensor per key and per value, as long as the sequence; a sliding or chunked layer keeps window - 1 tokens
  (``DynamicSlidingWindowLayer.update``). What is counted is held between two steps, after a prompt of the context.
* static: ``max_cache_len`` rows from the first token on, min(window, ``max_cache_len``) where a window slides
  (``StaticSlidingWindowLayer``); an encoder-decoder's cross-attention has the encoder's length (``generate``).
* quantized: the whole prompt at once (``QuantizedLayer.update``), for models with full attention alone.
* latent attention caches the latent and the rotary key, an indexer its keys, all in the model's dtype.
* a convolution keeps k columns, a recurrent state is fp32 (``LinearAttentionLayer``; the models' torch code).

There are no blocks and there is no reserve; a batch is padded to its longest sequence, so it is a multiple of one.
"""

from __future__ import annotations

from kvplan.core.attention import CompressedStream
from kvplan.core.budget import BudgetRequest, RankBudget
from kvplan.core.engine import (
    Allocation,
    EngineRequest,
    EngineSettings,
    GroupAllocation,
    ModelFacts,
    RankAllocation,
    Stage,
    choose_dtype,
    refuse_parallel,
    refuse_policy,
    refuse_settings,
)
from kvplan.core.errors import UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.engines.transformers.architectures import OWN_CACHE, SHARDED_KV, WHOLE_KV
from kvplan.engines.transformers.capacity import capacity_of, held_bytes
from kvplan.engines.transformers.fit import rank_budgets
from kvplan.engines.transformers.layers import CacheQuestion, hold_stage, splits_heads
from kvplan.engines.transformers.wording import explain, notes, reasons

_CACHES = ("dynamic", "static", "quantized")
_NATIVE_WORDS = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp32": "fp32",
}
_QUANTIZED_WORDS = {
    **{name: name for name in ("quanto4", "quanto2", "hqq8", "hqq4", "hqq2", "hqq1")},
    "fp8": "fp8_e4m3",
    "fp8_e4m3": "fp8_e4m3",
}
_GROUP_BACKENDS = ("quanto", "hqq")
"""Backends of ``QuantizedCache`` whose options may be written out: ``quanto:bits=2,residual=127``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformers:
    """``generate`` of transformers with the cache that ``cache`` names."""

    name: str = "transformers"
    version: str | None = "5.23.0"
    certainty: str = "rule"
    cache: str = "dynamic"

    def __post_init__(self) -> None:
        """Raise ValueError on a cache that kvplan does not count."""
        if self.cache not in _CACHES:
            raise ValueError(f"cache must be one of {', '.join(_CACHES)}, not {self.cache!r}")

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """The model's dtype, or what a ``QuantizedCache`` stores; ``auto`` never follows a checkpoint's scheme."""
        word = text.strip().lower()
        if word == "auto":
            name = "quanto4" if self.cache == "quantized" else facts.dtype
        elif word.partition(":")[0] in _GROUP_BACKENDS:
            name = word
        else:
            name = choose_dtype(self.name, word, {"auto": facts.dtype, **_NATIVE_WORDS, **_QUANTIZED_WORDS})
        quantized = name not in _NATIVE_WORDS.values()
        if quantized and self.cache == "static":
            raise UnsupportedError(f"transformers has no static cache in {text}", "leave cache=static out")
        if not quantized and self.cache == "quantized":
            raise UnsupportedError(
                f"transformers has no quantized cache in {text}", f"it has {', '.join(_QUANTIZED_WORDS)}"
            )
        if quantized:
            _require_quantizable(facts, stages)
        return name

    def allocate(self, request: EngineRequest) -> Allocation:
        """What the cache holds between two steps, and what the given memory would hold."""
        refuse_settings(self.name, request.settings, ("accelerator", "kv_memory_bytes", "max_model_len"))
        refuse_policy(request, self.name, "libraries on top of it do, such as kvpress: plan without --engine")
        refuse_parallel(request, self.name, ("tp", "pp", "dp"))
        own_cache = request.facts.family in OWN_CACHE  # cache_implementation is ignored
        question = CacheQuestion(request=request, static=self.cache == "static" and not own_cache)
        _refuse_static(question)
        _refuse_split(question)
        stages = tuple(_allocate_rank(stage, question) for stage in request.stages)
        memory = request.settings.kv_memory_bytes
        capacity = None if memory is None else capacity_of(question, memory)
        sequences = None if capacity is None else capacity.most_sequences()
        tokens = None if capacity is None else capacity.longest_context()
        return Allocation(
            stages=stages,
            capacity_tokens=None if tokens is None else tokens * request.sequences,
            max_concurrency=None if sequences is None else float(sequences),
            explanation=tuple(explain(stages, question)),
            reasons=tuple(reasons(question)),
            notes=tuple(notes(question)),
        )

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request as it is: ``generate`` has no batch limits."""
        return request

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights, and an estimate of what reading all prompts at once takes."""
        return rank_budgets(request)


def _require_quantizable(facts: ModelFacts, stages: tuple[Stage, ...]) -> None:
    """``QuantizedCache`` raises for anything but full attention, and ``generate`` for models with their own cache."""
    if facts.family in OWN_CACHE:
        raise UnsupportedError(f"transformers has no quantized cache here: {OWN_CACHE[facts.family]}", "use auto")
    kinds = {item.kind for stage in stages for layer in stage for item in layer}
    others = {kind.kind for kind in kinds if kind.kind not in ("full_attention", "latent") or kind.window_tokens}
    if others:
        named = ", ".join(sorted(others)).replace("_", " ")
        raise UnsupportedError(
            f"transformers quantizes caches of full attention alone, and this model has {named} layers", "use auto"
        )


def _refuse_static(question: CacheQuestion) -> None:
    """Raise UnsupportedError for layers that ``StaticCache`` does not serve."""
    if not question.static:
        return
    layers = [layer for stage in question.request.stages for layer in stage]
    if any(isinstance(item.kind, CompressedStream) for layer in layers for item in layer):
        raise UnsupportedError(
            "transformers has no static cache for compressed streams", "its StaticCache raises KeyError: use dynamic"
        )
    alone = any(len(layer) == 1 and any(part.encoder for part in layer[0].kind.parts()) for layer in layers)
    if alone and question.request.encoder_tokens:
        raise UnsupportedError(
            "transformers' static cache gives cross-attention layers the length of the text, not of the images",
            "use cache=dynamic, or --encoder-tokens 0 for text alone",
        )


def _refuse_split(question: CacheQuestion) -> None:
    """Raise UnsupportedError for heads that tensor-parallel ranks cannot share, or whose split is not known."""
    tp = question.request.parallel.tp
    if tp == 1:
        return
    if question.family not in SHARDED_KV | WHOLE_KV:
        raise UnsupportedError(
            f"whether transformers splits the keys of this architecture ({question.family}) depends on its class",
            "plan with --tp 1; get_kv_heads_per_rank(model.tp_plan, heads, tp) says what each rank caches",
        )
    kinds = {item.kind for stage in question.request.stages for layer in stage for item in layer}
    heads = {part.num_heads for kind in kinds for part in kind.parts() if splits_heads(part, question)}
    uneven = sorted(count for count in heads if count % tp)
    if uneven:
        raise UnsupportedError(f"transformers cannot split {uneven[0]} KV heads over {tp} ranks", "it replicates none")


def _allocate_rank(stage: Stage, question: CacheQuestion) -> RankAllocation:
    """One rank of a stage; kinds that hold different amounts in different layers are listed apart."""
    held = hold_stage(stage, question)
    return RankAllocation(
        groups=tuple(
            GroupAllocation(
                item=entry.item,
                count=count,
                allocated_tokens=entry.tokens,
                allocated_bytes=question.request.sequences * entry.sequence_bytes + entry.batch_bytes,
            )
            for entry, count in held.items()
        ),
        allocated_bytes=held_bytes(held, question.request.sequences),
        sequence_bytes=held_bytes(held, 1),
    )


ENGINE = Transformers()
