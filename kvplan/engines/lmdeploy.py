"""LMDeploy 0.18.0, PyTorch engine: blocks of 64 tokens for all layers at once, and a pool of state slots.

Read from its wheel: ``pytorch/engine/cache_engine/{schema,layout,state}.py``, ``engine/executor/base.py``,
``configurations/*.py`` and ``paging/block_manager/``. ``tests/vectors/lmdeploy_0.18.json`` holds what its own code
plans for real configs. The TurboMind engine was not read: its figures differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from kvplan.core.attention import (
    ChunkedLocal,
    FullAttention,
    HeadedKind,
    IndexKeys,
    Latent,
    SlidingWindow,
)
from kvplan.core.budget import BudgetRequest, RankBudget, compose_budget, loaded_weights, runtime_line, runtime_words
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
from kvplan.core.estimated_widths import estimate_widths
from kvplan.core.format import CacheFormat, PartFormat, RowFormat
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.overhead import Overhead
from kvplan.core.part import Part
from kvplan.core.recurrent import GatedDeltaNet
from kvplan.core.units import MIB, cdiv, format_bytes, round_up
from kvplan.core.weight_shards import WeightSpread

ALIGNMENT_BYTES = 256
BLOCK_TOKENS = 64
PREFILL_TOKENS = 8192
RESERVED_BLOCKS = 1
EXTRA_SLOTS = 2
"""``CacheDesc.alignment``; ``PytorchEngineConfig.block_size`` and ``max_prefill_token_num``;
``num_reserved_gpu_blocks``; slots beyond ``max_batches`` (``_get_state_cache_mem``)."""

MAX_BATCHES: Mapping[str, int] = {"a100": 384, "a800": 384, "h100": 1024, "h800": 1024, "l20y": 1024, "h200": 1024}
OTHER_MAX_BATCHES = 128
"""``lmdeploy/utils.py`` ``get_max_batch_size``: by a word in the device's name."""

CACHE_FRACTION = Fraction(8, 10)
INDEX_WORKSPACE_BYTES = 512 * MIB
"""``cache_max_entry_count``; scores of an indexer (``LMDEPLOY_DSA_INDEXER_MAX_LOGITS_MB``)."""

MIXED_WINDOWS: Mapping[str, tuple[bool, str]] = {
    "gemma": (True, "configurations/gemma.py keeps one sliding_window for all layers of Gemma 2 and 3"),
    "gemma_multimodal": (False, "configurations/gemma.py GemmaVLModelConfigBuilder sets sliding_window to -1"),
    "gpt_oss": (False, "configurations/gpt_oss.py sets sliding_window to -1"),
    "mistral": (True, "configurations/default.py reads one sliding_window for all layers"),
    "qwen": (True, "configurations/default.py reads one sliding_window for all layers"),
    "qwen_moe": (True, "configurations/default.py reads one sliding_window for all layers"),
}
"""Families with windows in some layers: whether blocks behind the window are dropped, which are those of all layers."""

_WORDS: Mapping[str, str] = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "int8": "int8_per_token_head",
    "8": "int8_per_token_head",
    "int4": "int4_per_token_head",
    "4": "int4_per_token_head",
    "fp8": "fp8_e4m3",
    "fp8_e4m3": "fp8_e4m3",
    "16": "fp8_e4m3",
    "fp8_e5m2": "fp8_e5m2",
    "17": "fp8_e5m2",
    "turbo_quant": "turbo_quant",
    "42": "turbo_quant",
}
_PARALLEL = ("tp",)
_KINDS = (FullAttention, SlidingWindow, ChunkedLocal, Latent, IndexKeys, GatedDeltaNet)


@dataclass(frozen=True, slots=True, kw_only=True)
class LmDeploy:
    """The PyTorch engine on CUDA; ``fp32_mamba_ssm_dtype`` is LMDEPLOY_FP32_MAMBA_SSM_DTYPE."""

    name: str = "lmdeploy"
    version: str | None = "0.18.0"
    certainty: str = "rule"
    fp32_mamba_ssm_dtype: bool = False

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """``--quant-policy`` by name or number; ``auto`` is none, whatever the checkpoint asks for."""
        none = dict.fromkeys(("auto", "none", "0"), facts.dtype)
        name = choose_dtype(self.name, text, {**none, **_WORDS})
        kinds = {item.kind for stage in stages for layer in stage for item in layer}
        if not any(isinstance(kind, Latent) for kind in kinds) or name in ("bf16", "fp16"):
            return name
        if any(isinstance(kind, IndexKeys) for kind in kinds) and name == "fp8_e4m3":
            return "fp8_ds_mla"
        has = "it has auto and fp8" if any(isinstance(kind, IndexKeys) for kind in kinds) else "it has auto"
        raise UnsupportedError(f"lmdeploy has no latent cache in {text}", has)

    def allocate(self, request: EngineRequest) -> Allocation:
        """Blocks for the requests and one in reserve, and the slots of models with state."""
        refuse_settings(
            self.name,
            request.settings,
            (
                "accelerator",
                "kv_memory_bytes",
                "block_tokens",
                "max_model_len",
                "max_num_batched_tokens",
                "max_num_seqs",
            ),
        )
        refuse_policy(request, self.name, "quantize the cache instead: --kv-dtype int8, int4 or fp8")
        refuse_parallel(request, self.name, _PARALLEL)
        plan = _Plan(engine=self, request=request)
        plan.check()
        return plan.fill(plan.answer(plan.rank()))

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request with the prefill and the largest batch that LMDeploy takes on its device."""
        settings = replace(request.allocation.settings, accelerator=request.accelerator)
        batches = _Plan(engine=self, request=replace(request.allocation, settings=settings)).max_batches
        tokens = settings.max_num_batched_tokens or PREFILL_TOKENS
        settings = replace(settings, max_num_batched_tokens=tokens, max_num_seqs=batches)
        return replace(request, allocation=replace(request.allocation, settings=settings))

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights, the reserve for logits, state slots, and ``cache_max_entry_count`` of what they leave.

        Raises UnsupportedError where the model's weights are not known, or for parallel sizes that it does not have.
        """
        refuse_parallel(request.allocation, self.name, _PARALLEL)
        plan = _Plan(engine=self, request=request.allocation)
        memory, runtime = request.accelerator.memory_bytes, runtime_line(request.allocation.parallel.tp)
        fraction, slots = request.memory_utilization or CACHE_FRACTION, plan.slots * plan.slot_bytes()
        spread = WeightSpread(
            parallel=replace(request.allocation.parallel, dp=1),
            expert_parallel=request.expert_parallel,
            towers=not request.text_only,
        )
        (weights,) = loaded_weights(request, spread)
        free = memory - weights.bytes - runtime.size_bytes - slots
        vocabulary = (request.architecture.widths or estimate_widths(request.architecture)).vocab_size
        reserve, equation = plan.logits_reserve(free, vocabulary, fraction)
        blocks = int((free - reserve) * fraction)
        requested = memory - free + reserve + blocks if blocks > 0 else memory
        found = Overhead(activation_bytes=reserve, certainty="rule", expected_error_bytes=0, lines=(equation,))
        words = (
            f"cache = {slots:,} (slots) + ({free:,} free - {reserve:,}) x {float(fraction):g} (cache_max_entry_count)",
            "activations and CUDA graphs share what the fraction leaves (engine/executor/base.py)",
            runtime_words(runtime),
        )
        return (compose_budget(request, weights, found, runtime, requested, words),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    engine: LmDeploy
    request: EngineRequest

    @property
    def block_tokens(self) -> int:
        """``--cache-block-seq-len``; wide latents without FlashMLA (below SM 9.0) have 32 (``_adjust_block_size``)."""
        asked = self.request.settings.block_tokens or BLOCK_TOKENS
        accelerator = self.request.settings.accelerator
        old = accelerator is not None and (accelerator.compute_capability or (0, 0)) < (9, 0)
        wide = any((kind.head_shape()[1] or 0) >= 512 for kind in self.request.kinds if not isinstance(kind, IndexKeys))
        latent = any(isinstance(kind, Latent) for kind in self.request.kinds)
        if latent and not old and asked != BLOCK_TOKENS:
            raise UsageError("lmdeploy's FlashMLA needs blocks of 64 tokens", "leave --block-size out")
        return min(asked, 32) if wide and (old or not latent) else asked

    @property
    def max_batches(self) -> int:
        """``--max-batch-size``, else what the device's name says."""
        accelerator = self.request.settings.accelerator
        name = accelerator.name.lower() if accelerator else ""
        default = next((size for word, size in MAX_BATCHES.items() if word in name), OTHER_MAX_BATCHES)
        return self.request.settings.max_num_seqs or default

    @property
    def slots(self) -> int:
        """State slots: one for each request at once, one for the system and one spare."""
        return self.max_batches + EXTRA_SLOTS

    @property
    def window(self) -> int | None:
        """The window behind which blocks are dropped, those of every layer; None where none are."""
        windows = [kind.window for kind in self.request.kinds if isinstance(kind, SlidingWindow)]
        if not windows:
            return None
        if not any(isinstance(kind, (FullAttention, ChunkedLocal)) for kind in self.request.kinds):
            return max(windows)
        return max(windows) if MIXED_WINDOWS[self.request.facts.family][0] else None

    def check(self) -> None:
        """Raise where LMDeploy has no such layers, blocks or split."""
        for kind in self.request.kinds:
            if not isinstance(kind, _KINDS) or (isinstance(kind, Latent) and kind.window):
                raise UnsupportedError(f"kvplan has no rule of lmdeploy for {kind.kind.replace('_', ' ')} layers")
        shapes = {kind.head_shape() for kind in self.request.kinds if isinstance(kind, HeadedKind)}
        if len(shapes) > 1:
            raise UnsupportedError("lmdeploy gives all layers the same heads, which this model's layers do not have")
        mixed = len({type(kind) for kind in self.request.kinds if isinstance(kind, HeadedKind)}) > 1
        windowed = mixed and any(isinstance(kind, SlidingWindow) for kind in self.request.kinds)
        if windowed and self.request.facts.family not in MIXED_WINDOWS:
            raise UnsupportedError("lmdeploy's PyTorch engine has no such model with windows in some layers")
        block = self.block_tokens
        if block < 16 or block & (block - 1):
            raise UsageError(f"lmdeploy's blocks are powers of two from 16, not {block}", "64 is its default")
        if (
            any(isinstance(kind, GatedDeltaNet) for kind in self.request.kinds)
            and self.request.sequences > self.max_batches
        ):
            raise UsageError(
                f"lmdeploy with {self.max_batches} batches cannot run {self.request.sequences} requests at once",
                "raise --max-num-seqs",
            )

    def rank(self) -> RankAllocation:
        """One rank's blocks and slots."""
        counted = group_kinds(self.request.stages[0], self.request.choice.policy)
        blocks = self.blocks(self.request.context_tokens)
        block_bytes = self.block_bytes()
        groups = []
        for item, count in counted.items():
            if isinstance(item.kind, GatedDeltaNet):
                tokens, size = 0, self.slots * sum(self.state_tensors(item.kind))
            else:
                tokens, size = blocks * self.block_tokens, self.request.sequences * blocks * self.layer_bytes(item)
            groups.append(GroupAllocation(item=item, count=count, allocated_tokens=tokens, allocated_bytes=size))
        held = self.request.sequences * blocks + RESERVED_BLOCKS
        return RankAllocation(
            groups=tuple(groups),
            allocated_bytes=held * block_bytes + self.slots * self.slot_bytes(),
            sequence_bytes=blocks * block_bytes + self.slot_bytes(),
            bytes_per_block=block_bytes,
            blocks_per_sequence=blocks,
        )

    def blocks(self, tokens: int) -> int:
        """The most blocks that a prompt of ``tokens`` holds while it is read in chunks, and after it."""
        size, window = self.block_tokens, self.window
        if window is None or tokens <= window:
            return cdiv(tokens, size)
        chunk = self.request.settings.max_num_batched_tokens or PREFILL_TOKENS
        starts = range(0, min(tokens, window + 3 * chunk), chunk)
        reading = [window_blocks(start, min(tokens, start + chunk), window, size) for start in starts]
        return max(*reading, window_blocks(tokens, tokens + 1, window, size))

    def block_bytes(self) -> int:
        """One block of all layers."""
        counted = group_kinds(self.request.stages[0], self.request.choice.policy)
        return sum(count * self.layer_bytes(item) for item, count in counted.items() if item.kind.parts())

    def layer_bytes(self, item: PlacedKind) -> int:
        """One block of one layer: every tensor aligned to 256 bytes. Index keys are FP8 with an fp32 scale."""
        kind, tokens = item.kind, self.block_tokens
        if isinstance(kind, IndexKeys):
            return tokens * (kind.head_dim + 4)
        if isinstance(kind, Latent):
            width = kind.kv_lora_rank + kind.qk_rope_head_dim
            packed = item.kv_format.key != item.kv_format.native
            row = sum(int(item.kv_format.key.row_bytes(part)) for part in kind.parts()) if packed else 2 * width
            return round_up(tokens * row, ALIGNMENT_BYTES)
        heads = rank_heads(kind.head_shape()[0] or 1, self.request.parallel.tp)
        parts = [(replace(part, num_heads=heads), item.kv_format.of(part)) for part in kind.parts()]
        return sum(tensor_bytes(part, cache_format, tokens) for part, cache_format in parts)

    def state_tensors(self, kind: GatedDeltaNet) -> tuple[int, int]:
        """One layer's convolution (kernel columns) and state in one slot, bf16 (``configurations/qwen3_next.py``)."""
        tp = self.request.parallel.tp
        k_heads, v_heads = kind.num_k_heads // tp, kind.num_v_heads // tp
        channels = 2 * k_heads * kind.k_head_dim + v_heads * kind.v_head_dim
        element = 4 if self.engine.fp32_mamba_ssm_dtype else 2
        return 2 * channels * kind.conv_kernel, element * v_heads * kind.v_head_dim * kind.k_head_dim

    def slot_bytes(self) -> int:
        """One slot of all layers: two tensors, each aligned."""
        tensors = [
            self.state_tensors(item.kind)
            for layer in self.request.stages[0]
            for item in layer
            if isinstance(item.kind, GatedDeltaNet)
        ]
        return sum(round_up(sum(sizes), ALIGNMENT_BYTES) for sizes in zip(*tensors))

    def logits_reserve(self, free: int, vocabulary: int, fraction: Fraction) -> tuple[int, str]:
        """Set aside for logits; a prefill is halved until 16 blocks fit (``_get_runtime_size``), and the equation."""
        tokens = self.request.settings.max_num_batched_tokens or PREFILL_TOKENS
        workspace = INDEX_WORKSPACE_BYTES * any(isinstance(kind, IndexKeys) for kind in self.request.kinds)
        while True:
            reserve = (tokens + 2 * self.max_batches) * vocabulary * 2 + workspace
            if tokens <= 1 or (free - reserve) * fraction >= 16 * self.block_bytes():
                words = f"logits ({tokens:,} + 2 x {self.max_batches:,}) x {vocabulary:,} x 2 B + {workspace:,}"
                return reserve, f"{words} = {reserve:,} B (engine/executor/base.py _get_runtime_size)"
            tokens //= 2

    def answer(self, rank: RankAllocation) -> Allocation:
        """The rank with its equations."""
        block, each, sequences = rank.bytes_per_block or 0, rank.blocks_per_sequence or 0, self.request.sequences
        lines = [
            f"blocks    {sequences:,} x {each:,} + {RESERVED_BLOCKS} reserved = {sequences * each + RESERVED_BLOCKS:,}"
            f" of {block:,} bytes (cache_engine/schema.py, engine/config_builder.py)"
        ]
        reasons = [f"blocks of {self.block_tokens} tokens for all layers, and one in reserve"]
        notes = ["these are the PyTorch engine's rules (--backend pytorch); TurboMind's were not read"]
        if slot := self.slot_bytes():
            lines.append(f"slots     ({self.max_batches:,} + {EXTRA_SLOTS}) x {slot:,} bytes = {self.slots * slot:,}")
            reasons.append("states have a slot for every request of the largest batch, and two more")
            if self.request.settings.max_num_seqs is None:
                notes.append(f"a largest batch of {self.max_batches} is assumed, the device's default (--max-num-seqs)")
        if any(isinstance(kind, IndexKeys) for kind in self.request.kinds):
            reasons.append("index keys are FP8 with an fp32 scale whatever the cache's dtype")
        if any(isinstance(kind, SlidingWindow) for kind in self.request.kinds):
            why = MIXED_WINDOWS.get(self.request.facts.family, (True, "paging/block_manager/window_block_manager.py"))[
                1
            ]
            dropped = "no block is dropped" if self.window is None else "blocks behind the window are dropped"
            reasons.append(f"{dropped}: {why}")
        return Allocation(
            stages=(rank,),
            block_tokens=self.block_tokens,
            explanation=tuple(lines),
            reasons=tuple(reasons),
            notes=tuple(notes),
        )

    def fill(self, answer: Allocation) -> Allocation:
        """What ``kv_memory_bytes`` holds, slots first. Raises DoesNotFitError.

        A session is at most one block shorter than the pool, unless a window bounds it (``_get_max_session_len``).
        """
        memory, block = self.request.settings.kv_memory_bytes, self.block_bytes()
        if memory is None or not block:
            return answer
        slots = self.slots * self.slot_bytes()
        blocks = max(0, memory - slots) // block
        usable = blocks - RESERVED_BLOCKS
        longest = self.request.max_model_len
        needed = self.blocks(longest)
        if blocks <= 2 or needed > (usable if self.window else usable - 1):
            raise DoesNotFitError(
                f"{format_bytes(memory)} hold {blocks:,} blocks of {self.block_tokens} tokens, not one request of"
                f" {longest:,}",
                f"it takes {format_bytes(slots + max(3, needed + RESERVED_BLOCKS + 1) * block)}",
            )
        concurrency = usable / needed
        return replace(
            answer,
            num_blocks=blocks,
            capacity_tokens=usable * self.block_tokens,
            max_concurrency=min(concurrency, self.max_batches) if slots else concurrency,
            log_line=f"num_gpu_blocks={blocks}",
            explanation=(*answer.explanation, f"capacity  ({memory:,} - {slots:,}) / {block:,} = {blocks:,} blocks"),
        )


def tensor_bytes(part: Part, cache_format: CacheFormat, tokens: int) -> int:
    """Codes and scales of a block of one part, each a tensor of its own (``build_k_cache_desc``)."""
    row = cache_format.part_format(part) if isinstance(cache_format, PartFormat) else cache_format
    assert isinstance(row, RowFormat)
    rows = tokens * part.num_heads
    codes, scales = rows * cdiv(part.width * row.bits, 8), rows * row.scale_bytes
    return round_up(codes, ALIGNMENT_BYTES) + round_up(scales, ALIGNMENT_BYTES)


def rank_heads(heads: int, tp: int) -> int:
    """KV heads of a rank: an equal share, or one where ranks outnumber them evenly. Raises UnsupportedError."""
    if max(heads, tp) % min(heads, tp):
        raise UnsupportedError(f"lmdeploy cannot split {heads} KV heads over {tp} ranks", "one must divide the other")
    return max(1, heads // tp)


def window_blocks(start: int, end: int, window: int, size: int) -> int:
    """Blocks of a sequence with ``start`` tokens of history, once ``end`` have room (``WindowBlockManager``)."""
    kept = cdiv(start, size) if start <= window else (start - 1) // size - (start - window) // size + 1
    return kept + cdiv(end, size) - cdiv(start, size)


ENGINE = LmDeploy()
