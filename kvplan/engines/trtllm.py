"""TensorRT-LLM, PyTorch backend, V1 cache manager: blocks of 32 tokens, a pool for each window, equal shares of memory.

An estimate: its C++ pools are not read, and ``use_kv_cache_manager_v2`` is ``auto``. The rules are those of
``tensorrt_llm/_torch/pyexecutor/resource_manager.py`` (``KVCacheManager``, main branch at 001541ba), those of
``DSACacheManager`` for index keys, and the defaults of ``KvCacheConfig`` in the documentation of 1.4.0rc1.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from kvplan.core.attention import (
    ChunkedLocal,
    FullAttention,
    HeadedKind,
    IndexKeys,
    Latent,
    LayerKind,
    NoCache,
    SlidingWindow,
)
from kvplan.core.budget import (
    BudgetRequest,
    RankBudget,
    compose_budget,
    forward_overhead,
    loaded_weights,
    runtime_line,
    runtime_words,
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
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.part import state_bytes
from kvplan.core.recurrent import GatedDeltaNet, Mamba2
from kvplan.core.units import GIB, cdiv, format_bytes
from kvplan.core.weight_shards import WeightSpread

BLOCK_TOKENS = 32
FLASH_MLA_BLOCK_TOKENS = 64
"""``tokens_per_block``, and what ``py_executor_creator.py`` makes of it for latents on SM 9.0 (FlashMLA)."""

FREE_MEMORY = Fraction(9, 10)
"""``free_gpu_memory_fraction`` of ``KvCacheConfig`` (documentation of 1.4.0rc1)."""

MAX_NUM_TOKENS, MAX_BATCH_SIZE = 8192, 2048
"""``max_num_tokens`` and ``max_batch_size`` where they are not set (documentation, "useful runtime options")."""

_WORDS = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "fp8": "fp8_e4m3",
    "nvfp4": "nvfp4",
}
_MINIMUM_CAPABILITY = {"fp8_e4m3": ((8, 9), "Ada"), "nvfp4": ((10, 0), "Blackwell")}
_WINDOWS = ("none", "model")
_SETTINGS = (
    *("accelerator", "kv_memory_bytes", "block_tokens", "max_model_len", "max_num_seqs", "num_speculative_tokens"),
    *("prefix_caching", "max_num_batched_tokens"),
)
_KINDS = (FullAttention, SlidingWindow, ChunkedLocal, Latent, IndexKeys, NoCache, GatedDeltaNet, Mamba2)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtLlm:
    """``max_attention_window=model`` lists the model's own windows, which TensorRT-LLM does not do by itself;
    ``enable_attention_dp`` gives each rank all heads of its share of the requests."""

    name: str = "trtllm"
    version: str | None = "1.4.0rc1"
    certainty: str = "estimate"
    max_attention_window: str = "none"
    enable_attention_dp: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError on windows that cannot be meant."""
        if self.max_attention_window not in _WINDOWS:
            raise ValueError(f"max_attention_window must be {' or '.join(_WINDOWS)}, not {self.max_attention_window!r}")

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """``kv_cache_config.dtype``; ``auto`` follows what ModelOpt wrote into the checkpoint."""
        scheme = facts.kv_scheme if facts.kv_scheme_method == "modelopt" else None
        follows = scheme if scheme in _MINIMUM_CAPABILITY else facts.dtype
        name = choose_dtype(self.name, text, {"auto": follows, **_WORDS})
        capability = settings.accelerator.compute_capability if settings.accelerator else None
        least, generation = _MINIMUM_CAPABILITY.get(name, ((0, 0), ""))
        if capability is not None and capability < least:
            raise UnsupportedError(f"TensorRT-LLM's {text} cache needs {generation} or newer", "use auto, bf16 or fp16")
        return name

    def allocate(self, request: EngineRequest) -> Allocation:
        """Blocks for the requests in a pool for each window."""
        refuse_settings(self.name, request.settings, _SETTINGS)
        refuse_policy(request, self.name, "quantize the cache instead: --kv-dtype fp8 or nvfp4")
        refuse_parallel(request, self.name, ("tp", "pp"))
        plan = _Plan(engine=self, request=request)
        plan.check()
        ranks = tuple(plan.rank(stage) for stage in request.stages)
        return plan.fill(plan.answer(ranks))

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request with TensorRT-LLM's ``max_num_tokens`` and ``max_batch_size``."""
        settings = request.allocation.settings
        settings = replace(
            settings,
            max_num_batched_tokens=settings.max_num_batched_tokens or MAX_NUM_TOKENS,
            max_num_seqs=settings.max_num_seqs or MAX_BATCH_SIZE,
        )
        return replace(request, allocation=replace(request.allocation, settings=settings))

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights, the peak of a profiling forward, and ``free_gpu_memory_fraction`` of what they leave: an estimate.

        Raises UnsupportedError where the model's weights are not known.
        """
        allocation = request.allocation
        tokens = allocation.settings.max_num_batched_tokens or MAX_NUM_TOKENS
        rows = min(allocation.settings.max_num_seqs or MAX_BATCH_SIZE, tokens)
        memory, fraction = request.accelerator.memory_bytes, request.memory_utilization or FREE_MEMORY
        runtime = runtime_line(allocation.parallel.tp)
        ranks = allocation.parallel.tp
        split = {"tp": 1, "dp": ranks, "dcp": 1} if self.enable_attention_dp else {"dp": 1}
        spread = WeightSpread(
            parallel=replace(allocation.parallel, **split),
            expert_parallel=request.expert_parallel,
            draft_layers=allocation.num_draft_layers > 0,
            towers=not request.text_only,
        )
        budgets = []
        for index, weights in enumerate(loaded_weights(request, spread)):
            found = forward_overhead(request, index, tokens, rows)
            peak = found.activation_bytes + runtime.size_bytes
            cache = cache_memory(memory, weights.bytes, peak, fraction)
            words = (
                f"cache = ({memory:,} - {weights.bytes:,} weights - {peak:,} peak) x {float(fraction):g} = {cache:,} B"
                " (free_gpu_memory_fraction, _torch/pyexecutor/_util.py)",
                "CUDA graphs and what is allocated later share what the fraction leaves",
                runtime_words(runtime),
            )
            requested = weights.bytes + peak + cache if cache else memory
            budgets.append(compose_budget(request, weights, found, runtime, requested, words))
        return tuple(budgets)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    engine: TrtLlm
    request: EngineRequest

    @property
    def kinds(self) -> set[LayerKind]:
        """Every kind of the model."""
        return {item.kind for stage in self.request.stages for layer in stage for item in layer}

    @property
    def block_tokens(self) -> int:
        """``tokens_per_block``."""
        accelerator = self.request.settings.accelerator
        flash_mla = accelerator is not None and accelerator.compute_capability == (9, 0)
        if flash_mla and any(isinstance(kind, Latent) for kind in self.kinds):
            return FLASH_MLA_BLOCK_TOKENS
        return self.request.settings.block_tokens or BLOCK_TOKENS

    @property
    def head_ranks(self) -> int:
        """Ranks over which KV heads are split."""
        return 1 if self.engine.enable_attention_dp else self.request.parallel.tp

    @property
    def sequences(self) -> int:
        """Requests of one rank."""
        ranks = self.request.parallel.tp if self.engine.enable_attention_dp else 1
        return cdiv(self.request.sequences, ranks)

    def check(self) -> None:
        """Raise where the V1 manager has no such layers or blocks."""
        block = self.block_tokens
        if block < 2 or block & (block - 1):
            raise UsageError(f"TensorRT-LLM's blocks are powers of two above 1, not {block}", "32 is its default")
        for kind in self.kinds:
            if not isinstance(kind, _KINDS) or (isinstance(kind, Latent) and kind.window):
                raise UnsupportedError(f"kvplan has no rule of TensorRT-LLM for {kind.kind.replace('_', ' ')} layers")
            if isinstance(kind, HeadedKind) and (kind.v_head_dim or kind.head_dim) != kind.head_dim:
                raise UnsupportedError("TensorRT-LLM's V1 manager stores keys and values of one width alone")

    def window(self, kind: LayerKind) -> int | None:
        """The window whose pool holds the kind; None where every token is kept."""
        listed = self.engine.max_attention_window == "model" and isinstance(kind, (SlidingWindow, ChunkedLocal))
        window = kind.window_tokens if listed else None
        return window if window is not None and window < self.request.max_model_len else None

    def rank(self, stage: Stage) -> RankAllocation:
        """One rank: pools share the memory equally, so each is as large as the fullest one."""
        counted = group_kinds(stage, self.request.choice.policy)
        groups = []
        for item, count in counted.items():
            blocks = self.blocks(self.window(item.kind), self.request.context_tokens) if item.kind.parts() else 0
            size = blocks * self.block_bytes(item) + self.state_bytes(item.kind)
            groups.append(
                GroupAllocation(
                    item=item,
                    count=count,
                    allocated_tokens=blocks * self.block_tokens,
                    allocated_bytes=self.sequences * size,
                )
            )
        pools = self.pools(stage, self.request.context_tokens)
        needs = [blocks * size for blocks, size in pools.values()]
        states = sum(count * self.state_bytes(item.kind) for item, count in counted.items())
        sequence_bytes = len(pools) * max(needs, default=0) + states
        return RankAllocation(
            groups=tuple(groups),
            allocated_bytes=self.sequences * sequence_bytes,
            sequence_bytes=sequence_bytes,
            bytes_per_block=sum(size for _, size in pools.values()) or None,
            blocks_per_sequence=max((blocks for blocks, _ in pools.values()), default=None),
        )

    def pools(self, stage: Stage, tokens: int) -> dict[int | None, tuple[int, int]]:
        """For each window: blocks of one request, and bytes of a block of all its layers."""
        sizes: dict[int | None, int] = {}
        for item, count in group_kinds(stage, self.request.choice.policy).items():
            if item.kind.parts():
                window = self.window(item.kind)
                sizes[window] = sizes.get(window, 0) + count * self.block_bytes(item)
        return {window: (self.blocks(window, tokens), size) for window, size in sizes.items()}

    def blocks(self, window: int | None, tokens: int) -> int:
        """Blocks of one request; drafted tokens need room, too, and a window one block more than it fills."""
        tokens += self.request.settings.num_speculative_tokens or 0
        whole = cdiv(tokens, self.block_tokens)
        return whole if window is None else min(whole, cdiv(window, self.block_tokens) + 1)

    def block_bytes(self, item: PlacedKind) -> int:
        """One block of one layer: at least one head a rank. Index keys are FP8 with an fp32 scale per 128."""
        kind = item.kind
        if isinstance(kind, IndexKeys):
            return self.block_tokens * (kind.head_dim + kind.head_dim // 128 * 4)
        parts = [part.shard(self.head_ranks) for part in kind.parts()]
        return sum(item.kv_format.of(part).stored_bytes(part, self.block_tokens) for part in parts)

    def state_bytes(self, kind: LayerKind) -> int:
        """The recurrent state of one request in one layer."""
        return sum(state_bytes(state.shard(self.head_ranks)) for state in kind.states())

    def answer(self, ranks: tuple[RankAllocation, ...]) -> Allocation:
        """The ranks with their equations."""
        lines, size = [], self.block_tokens
        for number, stage in enumerate(self.request.stages):
            for window, (blocks, block) in self.pools(stage, self.request.context_tokens).items():
                where = f"stage {number}, " if len(ranks) > 1 else ""
                pool = f"window {window:,}" if window else "full attention"
                lines.append(
                    f"{where}{pool}: {self.sequences:,} x {blocks:,} blocks of {block:,} bytes"
                    f" = {self.sequences * blocks * block:,} (resource_manager.py, get_cache_bytes_per_token)"
                )
        pools = self.pools(self.request.stages[0], self.request.context_tokens)
        if len(pools) > 1:
            lines.append(f"{len(pools)} pools of equal size (calculate_max_num_blocks_for_vswa)")
        return Allocation(
            stages=ranks,
            block_tokens=size,
            explanation=tuple(lines),
            reasons=tuple(self.reasons(len(pools))),
            notes=tuple(self.notes()),
        )

    def reasons(self, num_pools: int) -> list[str]:
        """Why this is not what geometry says."""
        reasons = [f"blocks of {self.block_tokens} tokens"]
        if any(kind.window_tokens for kind in self.kinds) and self.engine.max_attention_window == "none":
            reasons.append("windowed layers keep every token unless max_attention_window lists the windows")
        if num_pools > 1:
            reasons.append("each window's pool has an equal share of the memory, whatever its layers need")
        if any(isinstance(kind, IndexKeys) for kind in self.kinds):
            reasons.append("index keys are FP8 with an fp32 scale whatever the cache's dtype")
        return reasons

    def notes(self) -> list[str]:
        """What a reader must know."""
        notes = ["TensorRT-LLM's C++ pools and its V2 cache manager are not read: an estimate"]
        if any(kind.states() for kind in self.kinds):
            notes.append("recurrent states are counted for the requests asked for, not for max_batch_size slots")
        return notes

    def fill(self, answer: Allocation) -> Allocation:
        """What ``kv_memory_bytes`` holds: the fewest blocks of any rank. Raises DoesNotFitError."""
        memory = self.request.settings.kv_memory_bytes
        if memory is None:
            return answer
        held = [self._stage_capacity(stage, memory) for stage in self.request.stages]
        blocks, concurrency = min(entry[0] for entry in held), min(entry[1] for entry in held)
        if concurrency < 1:
            raise DoesNotFitError(
                f"{format_bytes(memory)} hold {blocks * self.block_tokens:,} tokens, not one request of"
                f" {self.request.max_model_len:,}",
                "shorten --ctx or --max-model-len, or give more --kv-memory",
            )
        return replace(
            answer,
            num_blocks=blocks,
            capacity_tokens=blocks * self.block_tokens,
            max_concurrency=concurrency,
            log_line=self.log_line(blocks),
        )

    def log_line(self, blocks: int) -> str | None:
        """What the C++ manager logs of a single pool, on the first rank."""
        pools = list(self.pools(self.request.stages[0], self.request.max_model_len).values())
        if len(pools) != 1:
            return None
        size, tokens = blocks * pools[0][1] / GIB, blocks * self.block_tokens
        return f"[MemUsageChange] Allocated {size:.2f} GiB for max tokens in paged KV cache ({tokens})."

    def _stage_capacity(self, stage: Stage, memory: int) -> tuple[int, float]:
        """Blocks of the pool that keeps every token (or the largest window's), and requests of the longest length."""
        pools = self.pools(stage, self.request.max_model_len)
        if not pools:
            raise UnsupportedError("kvplan has no rule of TensorRT-LLM for models without attention", None)
        states = sum(
            count * self.state_bytes(item.kind)
            for item, count in group_kinds(stage, self.request.choice.policy).items()
        )
        share = max(0, memory - self.sequences * states) // len(pools)
        held = {window: (share // size, blocks) for window, (blocks, size) in pools.items()}
        widest = None if None in held else max(window for window in held if window is not None)
        per_request = states + len(pools) * max(blocks * size for blocks, size in pools.values())
        return held[widest][0], min(memory / per_request, *(num / blocks for num, blocks in held.values()))


def cache_memory(total_bytes: int, weights_bytes: int, peak_bytes: int, fraction: Fraction = FREE_MEMORY) -> int:
    """Memory of one rank's cache: a fraction of what weights and the peak of a profiling forward leave of the device.

    The fraction is ``free_gpu_memory_fraction``; it multiplies what is left, unlike vLLM's (``_torch/pyexecutor/
    _util.py`` ``_cal_max_memory``). ``peak_bytes`` are activations and all that is not PyTorch's.
    """
    return max(0, int((total_bytes - weights_bytes - peak_bytes) * fraction))


ENGINE = TrtLlm()
