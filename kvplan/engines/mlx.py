"""MLX-LM 0.32.2: caches that grow in steps of 256 tokens, rotating caches for windows, ``--kv-bits`` after a while.

Read from its wheel (``models/cache.py``, ``generate.py``, the models' ``make_cache``) and held against
``tests/vectors/mlx_0.32.json``: its own models and caches after ``generate_step`` read a prompt as long as the context.
The server's batches (``BatchKVCache``) hold the same for each of equally long prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kvplan.core.attention import (
    ChunkedLocal,
    FullAttention,
    HeadedKind,
    IndexKeys,
    Latent,
    LayerKind,
    NoCache,
    Shared,
    SlidingWindow,
)
from kvplan.core.budget import (
    BudgetLine,
    BudgetRequest,
    RankBudget,
    compose_budget,
    expand_weights,
    forward_overhead,
    loaded_weights,
    refuse_utilization,
)
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
from kvplan.core.errors import DoesNotFitError, UnsupportedError
from kvplan.core.format import KVFormat
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.part import state_bytes
from kvplan.core.recurrent import GatedDeltaNet, KimiDeltaAttention, Mamba1, Mamba2, RgLru, ShortConv
from kvplan.core.search import last_true
from kvplan.core.units import MIB, format_bytes, round_up
from kvplan.core.weight_shards import WeightSpread

STEP_TOKENS = 256
"""``KVCache.step``."""

PREFILL_BATCH = 8
"""Prompts that are read together (``BatchGenerator.prefill_batch_size``)."""

RUNTIME_BYTES = 512 * MIB
"""Metal's context, kernels and cached buffers: a guess, as large as its error; no source states it."""

_EXPANDED = ("fp8", "fp8_mlp", "fp8_experts")
"""Checkpoints that the models' ``sanitize`` expands to 16 bits (``models/deepseek_v3.py``)."""

WINDOWS_IGNORED: Mapping[str, str] = {
    "mistral": "runs as models/llama.py, which rotates the windows of layer_types, not one window for all layers",
    "mixtral": "models/mixtral.py and phimoe.py have no windows",
    "phi": "models/phi3.py has no windows",
    "qwen": "models/qwen2.py and qwen3.py have no windows",
    "qwen_moe": "models/qwen2_moe.py and qwen3_moe.py have no windows",
    "starcoder": "models/starcoder2.py has no windows",
}
"""Families whose windowed layers keep every token, and why; Gemma 2 is told by its layers (``_ignores_windows``)."""

EXPANDED_HEADS: Mapping[str, tuple[int, int, str]] = {
    "DeepseekV2ForCausalLM": (192, 128, "models/deepseek_v2.py"),
    "MiniCPM3ForCausalLM": (96, 64, "models/minicpm3.py"),
}
"""Classes of latent attention that cache the keys and values of every head, not the latent: their widths and file."""

_V2_SHAPES = ((5120, 128), (2048, 16))
_V2_CONTEXT_TOKENS = 163840
"""(hidden size, heads) and context of DeepSeek-V2 and V2-Lite, which tell where the class is not known."""

_BITS = (1, 2, 3, 4, 5, 6, 8)
_GROUPS = (32, 64, 128)
"""What ``mx.quantize`` of MLX 0.32.4 takes."""

_KINDS = (
    *(FullAttention, SlidingWindow, ChunkedLocal, Latent, IndexKeys, NoCache, Shared),
    *(GatedDeltaNet, KimiDeltaAttention, Mamba1, Mamba2, RgLru, ShortConv),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxLm:
    """Its options are mlx-lm's flags: ``--kv-group-size``, ``--quantized-kv-start``, ``--prefill-step-size``."""

    name: str = "mlx"
    version: str | None = "0.32.2"
    certainty: str = "rule"
    kv_group_size: int = 64
    quantized_kv_start: int = 5000
    prefill_step_size: int = 2048

    def __post_init__(self) -> None:
        """Raise ValueError on groups that MLX does not have and steps whose rounding kvplan does not follow."""
        if self.kv_group_size not in _GROUPS:
            raise ValueError(f"kv_group_size must be one of {', '.join(map(str, _GROUPS))}, not {self.kv_group_size}")
        if self.prefill_step_size < 1 or self.prefill_step_size % STEP_TOKENS:
            raise ValueError(f"prefill_step_size must be a multiple of {STEP_TOKENS}, not {self.prefill_step_size}")

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """The model's own dtype, or ``8bit`` as in ``--kv-bits 8``."""
        spelled = {"bf16": "bfloat16", "fp16": "float16"}.get(facts.dtype, facts.dtype)
        group = "" if self.kv_group_size == 64 else f",group={self.kv_group_size}"
        bits = {f"{width}bit": f"int_group:bits={width}{group}" for width in reversed(_BITS)}
        return choose_dtype(
            self.name, text, {"auto": facts.dtype, facts.dtype: facts.dtype, spelled: facts.dtype, **bits}
        )

    def allocate(self, request: EngineRequest) -> Allocation:
        """What the caches hold when a prompt of the context's length has been read."""
        refuse_settings(self.name, request.settings, ("accelerator", "kv_memory_bytes", "max_model_len"))
        refuse_policy(
            request, self.name, "it has --max-kv-size, a rotating cache, for models without windows of their own"
        )
        refuse_parallel(request, self.name, ())
        caches = _Caches(engine=self, request=request)
        caches.check()
        rank = caches.rank()
        answer = Allocation(
            stages=(rank,),
            block_tokens=STEP_TOKENS,
            explanation=tuple(caches.explain(rank)),
            reasons=tuple(caches.reasons()),
            notes=tuple(caches.notes()),
        )
        return caches.fill(answer)

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request as it is: mlx-lm has no batch limits to resolve."""
        return request

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights and one chunk of prompts in what the GPU may wire of the memory. Raises UnsupportedError."""
        refuse_utilization(request, "mlx-lm")
        words = ["mlx-lm reserves nothing and has no fraction: activations are an estimate, no rule of its own"]
        if request.accelerator.unified_memory:
            words.append("memory: what the GPU may wire of the unified memory (wired_limit in generate.py)")
        if request.weight_format.name in _EXPANDED:
            words.append("8-bit floats are expanded to 16 bits when they are loaded (sanitize)")
            request = expand_weights(request)
        allocation = request.allocation
        prompts = min(allocation.sequences, PREFILL_BATCH)
        tokens = prompts * min(self.prefill_step_size, allocation.context_tokens)
        words.append(
            f"driver, kernels, cached buffers: a guess of {format_bytes(RUNTIME_BYTES)}, as large as its error"
        )
        runtime = BudgetLine(size_bytes=RUNTIME_BYTES, certainty="estimate", error_bytes=RUNTIME_BYTES)
        (weights,) = loaded_weights(request, WeightSpread(towers=not request.text_only))
        return (compose_budget(request, weights, forward_overhead(request, 0, tokens, prompts), runtime, words=words),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caches:
    """The caches of one request."""

    engine: MlxLm
    request: EngineRequest

    @property
    def asked(self) -> bool:
        """Whether ``--kv-bits`` is given."""
        kv_format = self.request.choice.kv_format
        return kv_format.key != kv_format.native

    @property
    def started(self) -> bool:
        """Whether the cache is long enough to be quantized."""
        return self.asked and self.request.context_tokens >= self.engine.quantized_kv_start

    def check(self) -> None:
        """Raise UnsupportedError for what mlx-lm does not cache, batch or quantize."""
        for kind in self.request.kinds:
            if not isinstance(kind, _KINDS) or (isinstance(kind, HeadedKind) and kind.num_prefix_tokens):
                raise UnsupportedError(f"mlx-lm 0.32.2 has no cache for {_words(kind)} layers as this model has them")
        chunked = any(isinstance(kind, ChunkedLocal) for kind in self.request.kinds)
        if self.request.sequences > 1 and (self.asked or chunked):
            why = "a quantized cache" if self.asked else "chunked caches"
            raise UnsupportedError(f"mlx-lm does not batch requests with {why}", "size one request at a time")
        if self.started:
            self._check_quantized()

    def _check_quantized(self) -> None:
        later = f"it fails once a request has {self.engine.quantized_kv_start:,} tokens (--quantized-kv-start)"
        if any(isinstance(cached_kind(kind, self.request), SlidingWindow) for kind in self.request.kinds):
            raise UnsupportedError("mlx-lm cannot quantize rotating caches, which this model's windows have", later)
        if _is_gemma2(self.request):
            raise UnsupportedError(
                "mlx-lm cannot quantize Gemma 2's cache: its attention caps the scores itself", later
            )
        for kind in self.request.kinds:
            stored = cached_kind(kind, self.request)
            if isinstance(stored, Latent) and not self._listed:
                raise UnsupportedError("mlx-lm cannot read a latent back from a quantized cache", later)
            widths = [part.width for part in stored.parts()] if self._quantizes(stored) else []
            if uneven := [width for width in widths if width % self.engine.kv_group_size]:
                raise UnsupportedError(
                    f"groups of {self.engine.kv_group_size} do not divide heads of {uneven[0]}",
                    "choose another size, as in mlx:kv_group_size=32",
                )

    @property
    def _listed(self) -> bool:
        """Rows and index keys share a ``CacheList``, which ``maybe_quantize_kv_cache`` passes over.

        Layers without an index lie in one too (``models/minimax_m3_vl.py``).
        """
        return any(isinstance(kind, IndexKeys) for kind in self.request.kinds)

    @property
    def _indexes_latents(self) -> bool:
        """Index caches of ``models/deepseek_v32.py``: in every layer, with values of zeros as wide as the keys.

        Those of ``models/minimax_m3_vl.py`` are in the sparse layers alone and have values without width.
        """
        return self._listed and any(isinstance(kind, Latent) for kind in self.request.kinds)

    def _quantizes(self, kind: LayerKind) -> bool:
        return self.started and isinstance(kind, FullAttention) and not self._listed

    def rank(self) -> RankAllocation:
        """Every layer's cache. Latents with an indexer have index caches in layers that share an index, too."""
        groups, extra = [], 0
        counted = group_kinds(self.request.stages[0], self.request.choice.policy)
        latents = sum(count for item, count in counted.items() if isinstance(item.kind, Latent))
        indexed = sum(count for item, count in counted.items() if isinstance(item.kind, IndexKeys))
        for item, count in counted.items():
            size = self.layer_bytes(item)
            if isinstance(item.kind, IndexKeys) and self._indexes_latents:
                extra = (latents - indexed) * size
            groups.append(
                GroupAllocation(
                    item=item,
                    count=count,
                    allocated_tokens=self.tokens(item.kind),
                    allocated_bytes=self.request.sequences * size,
                )
            )
        total = sum(group.count * group.allocated_bytes for group in groups) + self.request.sequences * extra
        return RankAllocation(
            groups=tuple(groups), allocated_bytes=total, sequence_bytes=total // self.request.sequences
        )

    def tokens(self, kind: LayerKind) -> int:
        """Tokens that one layer's cache has room for."""
        stored = cached_kind(kind, self.request)
        return (
            cached_tokens(stored, self.request.context_tokens, self.engine.prefill_step_size) if stored.parts() else 0
        )

    def layer_bytes(self, item: PlacedKind) -> int:
        """One layer, one sequence."""
        kind = cached_kind(item.kind, self.request)
        kv_format: KVFormat = item.kv_format if self._quantizes(kind) else item.kv_format.all_native()
        tokens = self.tokens(item.kind)
        rows = sum(kv_format.of(part).stored_bytes(part, part.rows(tokens)) for part in kind.parts())
        copies = 2 if isinstance(kind, IndexKeys) and self._indexes_latents else 1
        return copies * rows + sum(map(state_bytes, kind.states()))

    def fill(self, answer: Allocation) -> Allocation:
        """The longest request in ``kv_memory_bytes``, and how many of the longest asked for. Raises DoesNotFitError."""
        memory = self.request.settings.kv_memory_bytes
        if memory is None:
            return answer
        one = self.total(self.request.max_model_len, 1)
        if one > memory:
            raise DoesNotFitError(
                f"one request of {self.request.max_model_len:,} tokens takes {format_bytes(one)}"
                f" of {format_bytes(memory)}",
                "shorten --ctx or --max-model-len, or give more --kv-memory",
            )
        longest = last_true(lambda tokens: self.total(max(1, tokens), self.request.sequences) <= memory)
        return replace(
            answer,
            capacity_tokens=None if longest is None else longest * self.request.sequences,
            max_concurrency=float(memory // one) if one else None,
        )

    def total(self, tokens: int, sequences: int) -> int:
        """What ``sequences`` requests of ``tokens`` would hold."""
        request = replace(self.request, context_tokens=tokens, sequences=sequences)
        return replace(self, request=request).rank().allocated_bytes

    def explain(self, rank: RankAllocation) -> Iterator[str]:
        """One line per group of equal layers."""
        for group in rank.groups:
            if group.allocated_bytes:
                room = f"{group.allocated_tokens:,} tokens, " if group.allocated_tokens else ""
                yield (
                    f"{_words(group.item.kind)}: {room}{group.allocated_bytes:,} bytes a layer x {group.count} layers"
                    f" = {group.count * group.allocated_bytes:,}"
                )
        yield "rules: models/cache.py (KVCache, RotatingKVCache, QuantizedKVCache) and the models' make_cache"

    def reasons(self) -> Iterator[str]:
        """Why this is not what geometry says."""
        stored = {cached_kind(kind, self.request) for kind in self.request.kinds}
        yield f"caches grow in steps of {STEP_TOKENS} tokens"
        if any(isinstance(kind, SlidingWindow) for kind in stored):
            yield f"a window has room for up to {STEP_TOKENS} tokens more until it is full"
        elif any(isinstance(kind, SlidingWindow) for kind in self.request.kinds):
            why = WINDOWS_IGNORED.get(self.request.facts.family, "models/gemma2.py has no windows")
            yield f"windowed layers keep every token: {why}"
        if self.asked and not self.started:
            yield f"nothing is quantized before {self.engine.quantized_kv_start:,} tokens (--quantized-kv-start)"
        if self._indexes_latents:
            yield "index caches hold values of zeros beside their keys, in every latent layer"
        if self._listed and self.asked:
            yield "--kv-bits passes over the caches of models with an indexer"
        expanded = _expanded_heads(self.request)
        if expanded is not None:
            yield f"{expanded[2]} caches the keys and values of every head, not the latent"
        if any(isinstance(kind, (Mamba1, RgLru)) for kind in self.request.kinds):
            yield "the recurrent state has the model's dtype"

    def notes(self) -> Iterator[str]:
        """What a reader must know."""
        stored = [cached_kind(kind, self.request) for kind in self.request.kinds]
        windows = [kind.window for kind in stored if isinstance(kind, SlidingWindow)]
        chunk = min(self.request.context_tokens - 1, self.engine.prefill_step_size)
        if windows and self.request.context_tokens > max(windows):
            yield (
                f"while a prompt is read, a window of {max(windows):,} holds up to {max(windows) + chunk - 1:,} tokens;"
                " what is counted is held after it"
            )
        if self.started:
            yield "while the cache is quantized, it is held twice: once in 16 bits"


def cached_tokens(kind: LayerKind, tokens: int, chunk: int) -> int:
    """Tokens that a cache has room for after a prompt of ``tokens``, read in chunks with its last token alone.

    A chunk is appended to a rotating cache as it is, a single token grows it by up to 256 (``_update_in_place``); a
    chunked cache is cut to its chunk before each step and grows by 256 for the token to come.
    """
    if isinstance(kind, SlidingWindow):
        alone = (tokens - 1) % chunk == 1  # the last chunk was one token, too
        return min(tokens - 1 - alone + STEP_TOKENS, kind.window)
    if isinstance(kind, ChunkedLocal) and tokens > kind.chunk_size:
        return kind.chunk_size + STEP_TOKENS
    return round_up(tokens, STEP_TOKENS)


def cached_kind(kind: LayerKind, request: EngineRequest) -> LayerKind:
    """The kind as mlx-lm caches it."""
    if isinstance(kind, SlidingWindow) and _ignores_windows(request):
        return FullAttention(num_kv_heads=kind.num_kv_heads, head_dim=kind.head_dim, v_head_dim=kind.v_head_dim)
    expanded = _expanded_heads(request)
    if isinstance(kind, Latent) and expanded is not None:
        key, value, _ = expanded
        return FullAttention(num_kv_heads=request.facts.num_heads or 1, head_dim=key, v_head_dim=value)
    if isinstance(kind, (Mamba1, RgLru)):
        return replace(kind, state_dtype="model")
    return kind


def _ignores_windows(request: EngineRequest) -> bool:
    family = request.facts.family
    if family == "mistral":
        return not any(isinstance(item.kind, FullAttention) for layer in request.stages[0] for item in layer)
    return family in WINDOWS_IGNORED or _is_gemma2(request)


def _is_gemma2(request: EngineRequest) -> bool:
    """Where the class is not known: Gemma 2 has as many windowed layers as full ones, Gemma 3 five times as many."""
    if request.facts.architecture_class is not None:
        return request.facts.architecture_class == "Gemma2ForCausalLM"
    kinds = [type(item.kind) for layer in request.stages[0] for item in layer]
    return request.facts.family == "gemma" and 0 < kinds.count(FullAttention) == kinds.count(SlidingWindow)


def _expanded_heads(request: EngineRequest) -> tuple[int, int, str] | None:
    """The entry of a class that caches every head; a DeepSeek of unknown class is V2 if it has V2's shape."""
    facts = request.facts
    v2 = (facts.hidden_size, facts.num_heads) in _V2_SHAPES and facts.max_context_tokens == _V2_CONTEXT_TOKENS
    guess = "DeepseekV2ForCausalLM" if facts.family == "deepseek" and v2 else ""
    return EXPANDED_HEADS.get(facts.architecture_class or guess)


def _words(kind: LayerKind) -> str:
    return kind.kind.replace("_", " ")


ENGINE = MlxLm()
