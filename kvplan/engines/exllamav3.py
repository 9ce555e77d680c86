"""ExLlamaV3 1.6.5: one pool of 256-token pages for all jobs, fp16 or 2 to 8 bits, and a slot of state per job.

Read from its wheel: ``cache/{cache,fp16,quant,mla}.py``, ``modules/{sliding_attn,gated_delta_net,mamba2}.py`` and
``short_conv.py``, and the tensor-parallel plans of ``modules/attn.py``. ``tests/vectors/exllamav3_1.6.json`` holds what
its own classes say of the same shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kvplan.core.attention import (
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
    BudgetRequest,
    RankBudget,
    compose_budget,
    forward_overhead,
    loaded_weights,
    refuse_utilization,
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
    refuse_parallel,
    refuse_policy,
    refuse_settings,
)
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.recurrent import GatedDeltaNet, KimiDeltaAttention, Mamba2, ShortConv
from kvplan.core.units import GIB, cdiv, format_bytes, round_up
from kvplan.core.weight_shards import WeightSpread

PAGE_TOKENS = 256
DEFAULT_SLOTS = 16
"""``constants.py`` PAGE_SIZE; ``Cache(max_batch_size=16)``."""

CHUNK_TOKENS, OUTPUT_ROWS = 2048, 32
RESERVE_BYTES = GIB // 2
"""``Model.load``: ``max_chunk_size`` and ``max_output_size`` of the pass it measures, ``reserve_per_device`` in GB."""

RING_FAMILIES: Mapping[str, str] = {
    "afmoe": "architecture/afmoe.py",
    "gpt_oss": "architecture/gpt_oss.py",
    "laguna": "architecture/laguna.py",
    "mimo": "architecture/mimo_v2.py",
    "step3": "architecture/step3_5.py",
}
"""Families whose windowed layers are ``SlidingAttention`` (a ring per slot) unless ``-swa_full``; the others' pages
hold every token. Gemma 4 is told by its class: see ``_has_rings``."""

_RING_SLACK_TOKENS = 512
"""``SlidingAttention(sliding_window_overp=2 * PAGE_SIZE)``. Most architectures pass the window less the query itself,
which changes the rounded ring of no published window."""

_BITS = tuple(str(bits) for bits in range(2, 9))
_FP16_WORDS = ("auto", "fp16", "float16", "f16", "half")
_KINDS = (
    FullAttention,
    SlidingWindow,
    Latent,
    IndexKeys,
    NoCache,
    Shared,
    GatedDeltaNet,
    KimiDeltaAttention,
    Mamba2,
    ShortConv,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExLlamaV3:
    """``swa_full`` and ``recurrent_state_fp32`` are its flags of the same names."""

    name: str = "exllamav3"
    version: str | None = "1.6.5"
    certainty: str = "rule"
    swa_full: bool = False
    recurrent_state_fp32: bool = False

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """``auto`` (fp16 always), ``8``, or keys and values apart as in ``6,5``: ``--cache_quant`` takes the same."""
        key = text.strip().lower()
        if key in _FP16_WORDS:
            return "fp16"
        bits = [word.strip() for word in key.replace(",", "/").split("/")]
        if len(bits) > 2 or not all(word in _BITS for word in bits):
            raise UnsupportedError(
                f"exllamav3 has no cache dtype {text!r}",
                "it has auto (fp16), 2 to 8 bits, or keys and values apart as in 6,5",
            )
        names = [f"exl3_{word}" for word in bits]
        return names[0] if _latents(stages) else "/".join(names)

    def allocate(self, request: EngineRequest) -> Allocation:
        """Pages for the longest the jobs grow to, and rings and states for every slot."""
        refuse_settings(
            "exllamav3",
            request.settings,
            ("accelerator", "kv_memory_bytes", "max_model_len", "max_num_seqs", "num_speculative_tokens"),
        )
        refuse_policy(request, "exllamav3", "it has --cache_quant k_bits,v_bits")
        refuse_parallel(request, "exllamav3", ("tp",))
        plan = _Plan(engine=self, request=request, rings=not self.swa_full and _has_rings(request))
        stage = request.stages[0]
        plan.check(stage)
        rank = plan.rank(stage)
        return plan.fill(rank, plan.answer(rank))

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request as it is: the cache is as large as asked for, not as the memory allows."""
        return request

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights, one chunk of a prompt, and all but the loader's reserve. Raises UnsupportedError."""
        refuse_utilization(request, "exllamav3")
        parallel = request.allocation.parallel
        runtime = runtime_line(parallel.tp)
        words = (
            f"{format_bytes(RESERVE_BYTES)} stay free (reserve_per_device, model/model.py); the rest is not divided by"
            " any rule: activations are an estimate",
            f"weights are counted in {request.weight_format.name}; for EXL3 files choose --weights of as many bits",
            runtime_words(runtime),
        )
        spread = WeightSpread(parallel=replace(parallel, dp=1), towers=not request.text_only)
        (weights,) = loaded_weights(request, spread)
        found = forward_overhead(request, 0, CHUNK_TOKENS, OUTPUT_ROWS)
        requested = request.accelerator.memory_bytes - RESERVE_BYTES
        return (compose_budget(request, weights, found, runtime, requested, words),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    engine: ExLlamaV3
    request: EngineRequest
    rings: bool

    @property
    def history(self) -> int:
        """Draft tokens that a job can take back (``max_history``)."""
        return self.request.settings.num_speculative_tokens or 0

    @property
    def slots(self) -> int:
        """Jobs at once of a model with state: 16, or as many as are asked for."""
        return self.request.settings.max_num_seqs or max(DEFAULT_SLOTS, self.request.sequences)

    @property
    def pages(self) -> int:
        """Pages of one job."""
        return cdiv(self.request.context_tokens, PAGE_TOKENS)

    def check(self, stage: Stage) -> None:
        """Raise where ExLlamaV3 has no such layer, no such split or too few slots."""
        kinds = {item.kind for layer in stage for item in layer}
        for kind in kinds:
            if not isinstance(kind, _KINDS):
                raise UnsupportedError(f"exllamav3 1.6.5 has no cache for {kind.kind.replace('_', ' ')} layers")
        if self.request.parallel.tp > 1 and any(isinstance(kind, (Latent, ShortConv)) for kind in kinds):
            raise UnsupportedError(
                "exllamav3 splits no latent and no short-convolution layer over GPUs: it gives each whole layer to one",
                "size it without --tp",
            )
        if self.request.sequences > self.slots and any(self.is_slot(kind) for kind in kinds):
            raise UsageError(
                f"exllamav3 with {self.slots} state slots cannot run {self.request.sequences} jobs at once",
                "raise --max-num-seqs",
            )

    def is_slot(self, kind: LayerKind) -> bool:
        """Whether the kind is kept per slot, not in pages."""
        return bool(kind.states()) or (self.rings and isinstance(kind, SlidingWindow))

    def rank(self, stage: Stage) -> RankAllocation:
        """The fullest rank: heads are split as evenly as the free memory is, which is taken for equal."""
        groups, page_bytes, sequence_bytes = [], 0, 0
        for item, count in group_kinds(stage, self.request.choice.policy).items():
            if self.is_slot(item.kind):
                once, tokens = self.slot_bytes(item.kind), self.ring_tokens(item.kind)
                total = self.slots * once
            else:
                once, tokens = self.pages * self.page_bytes(item), self.pages * PAGE_TOKENS
                total = self.request.sequences * once
                page_bytes += count * self.page_bytes(item)
            sequence_bytes += count * once
            groups.append(GroupAllocation(item=item, count=count, allocated_tokens=tokens, allocated_bytes=total))
        return RankAllocation(
            groups=tuple(groups),
            allocated_bytes=sum(group.count * group.allocated_bytes for group in groups),
            sequence_bytes=sequence_bytes,
            bytes_per_block=page_bytes or None,
            blocks_per_sequence=self.pages if page_bytes else None,
        )

    def page_bytes(self, item: PlacedKind) -> int:
        """One page of one layer. Values are padded to the keys' head."""
        kind = item.kind
        if isinstance(kind, HeadedKind):
            kind = FullAttention(
                num_kv_heads=rank_heads(kind, self.request.parallel.tp), head_dim=padded_head_dim(kind)
            )
        return sum(item.kv_format.of(part).stored_bytes(part, PAGE_TOKENS) for part in kind.parts())

    def ring_tokens(self, kind: LayerKind) -> int:
        """Rows of a window's ring; 0 for a state."""
        return round_up(kind.window + _RING_SLACK_TOKENS, PAGE_TOKENS) if isinstance(kind, SlidingWindow) else 0

    def slot_bytes(self, kind: LayerKind) -> int:
        """One slot of one layer: a ring in fp16 whatever the cache's dtype, or a state."""
        tp = self.request.parallel.tp
        if isinstance(kind, SlidingWindow):
            return 4 * self.ring_tokens(kind) * rank_heads(kind, tp) * padded_head_dim(kind)
        return state_bytes(kind, tp, self.history, self.engine.recurrent_state_fp32)

    def answer(self, rank: RankAllocation) -> Allocation:
        """The rank with its equations."""
        page, slots = rank.bytes_per_block or 0, self.slots
        paged = self.request.sequences * self.pages
        lines = [
            f"pages     {self.request.sequences:,} x ceil({self.request.context_tokens:,} / {PAGE_TOKENS}) = {paged:,}"
            f" of {page:,} bytes = {paged * page:,} (cache/cache.py, constants.py PAGE_SIZE)"
        ]
        reasons = [f"pages of {PAGE_TOKENS} tokens, one pool for all jobs"]
        held = rank.allocated_bytes - paged * page
        if held:
            lines.append(f"slots     {slots:,} x {held // slots:,} bytes = {held:,} (Cache max_batch_size)")
            reasons.append(f"rings and states are allocated for {slots:,} jobs at start, used or not")
        return Allocation(
            stages=(rank,),
            block_tokens=PAGE_TOKENS,
            explanation=tuple(lines),
            reasons=tuple(reasons),
            notes=self.notes(),
        )

    def fill(self, rank: RankAllocation, answer: Allocation) -> Allocation:
        """What ``kv_memory_bytes`` holds: slots first, then whole pages. Raises DoesNotFitError."""
        memory, page = self.request.settings.kv_memory_bytes, rank.bytes_per_block
        if memory is None or page is None:
            return answer
        held = rank.allocated_bytes - self.request.sequences * self.pages * page
        pages = max(0, memory - held) // page
        needed = cdiv(self.request.max_model_len, PAGE_TOKENS)
        if pages < needed:
            raise DoesNotFitError(
                f"{format_bytes(memory)} hold {pages * PAGE_TOKENS:,} tokens, not one job of"
                f" {self.request.max_model_len:,}",
                f"it takes {format_bytes(held + needed * page)}",
            )
        concurrency = pages / needed
        return replace(
            answer,
            num_blocks=pages,
            capacity_tokens=pages * PAGE_TOKENS,
            max_concurrency=min(concurrency, self.slots) if held else concurrency,
            explanation=(*answer.explanation, f"capacity  ({memory:,} - {held:,}) / {page:,} = {pages:,} pages"),
        )

    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        paged = self.request.sequences * self.pages * PAGE_TOKENS
        notes = [f"start it with --cache_size {paged} for all jobs: its default is 8192"]
        if self.request.choice.kv_format.key.name.startswith("exl3") and not _latents(self.request.stages):
            notes.append(
                "attention without online dequantization expands one layer at a time to fp16, which is not counted"
            )
        if self.request.parallel.tp > 1:
            notes.append(
                "exllamav3 splits heads by the GPUs' free memory; equal memory is assumed, the fullest rank shown"
            )
        return tuple(notes)


def padded_head_dim(kind: HeadedKind) -> int:
    """Values ride at the keys' head dim, the rest filled with zeros (``modules/attn.py``)."""
    return max(kind.head_dim, kind.v_head_dim or 0)


def rank_heads(kind: HeadedKind, tp: int) -> int:
    """Heads on the fullest rank, in units whose width 128 divides (``modules/attn.py``). Raises UnsupportedError."""
    unit, units = 1, kind.num_kv_heads
    if tp == 1:
        return units
    while unit * kind.head_dim % 128:
        if units % 2:
            raise UnsupportedError(
                f"exllamav3 cannot split {kind.num_kv_heads} KV heads of {kind.head_dim} into 128-channel tensors",
                "size it without --tp",
            )
        unit, units = 2 * unit, units // 2
    return cdiv(units, tp) * unit


def state_bytes(kind: LayerKind, tp: int, history: int, fp32: bool) -> int:
    """One slot: a conv ring of ``kernel + history`` columns, two rows of state, and ``history + 1`` staged inputs.

    Convolutions and staged inputs are bf16 with fp32 gates; states fp16, in Mamba-2 fp32 (``GDNLayerState``).
    """
    if isinstance(kind, ShortConv):
        return 2 * kind.channels * (kind.conv_kernel + history)
    assert isinstance(kind, (GatedDeltaNet, KimiDeltaAttention, Mamba2))
    k_heads, heads, k_dim, v_dim = _state_shape(kind)
    k_heads, heads = cdiv(k_heads, tp), cdiv(heads, tp)
    channels = 2 * k_heads * k_dim + heads * v_dim
    element = 4 if fp32 or isinstance(kind, Mamba2) else 2
    gates = heads * (k_dim if isinstance(kind, KimiDeltaAttention) else 1)
    conv = 2 * channels * (kind.conv_kernel + history)
    staged = (history + 1) * (2 * channels + 2 * heads + 4 * gates)
    return conv + 2 * heads * k_dim * v_dim * element + staged


def _state_shape(kind: GatedDeltaNet | KimiDeltaAttention | Mamba2) -> tuple[int, int, int, int]:
    """(key heads, value heads, key dim, value dim): Mamba-2's groups and state are its keys (``modules/mamba2.py``)."""
    if isinstance(kind, Mamba2):
        return kind.num_groups, kind.num_heads, kind.state_size, kind.head_dim
    if isinstance(kind, KimiDeltaAttention):
        return kind.num_heads, kind.num_heads, kind.head_dim, kind.v_head_dim or kind.head_dim
    return kind.num_k_heads, kind.num_v_heads, kind.k_head_dim, kind.v_head_dim


def _has_rings(request: EngineRequest) -> bool:
    """Whether windowed layers are rings: by family, and in Gemma 4 (``architecture/gemma4.py``), not in Gemma 2 and 3.

    Where the class is not known, Gemma 4 is the one whose full layers have heads of their own.
    """
    facts = request.facts
    if facts.family in RING_FAMILIES:
        return True
    if facts.architecture_class is not None:
        return facts.architecture_class.startswith("Gemma4")
    kinds = {item.kind for stage in request.stages for layer in stage for item in layer}
    dims = [{kind.head_dim for kind in kinds if isinstance(kind, cls)} for cls in (FullAttention, SlidingWindow)]
    return facts.family == "gemma_multimodal" and dims[0] != dims[1]


def _latents(stages: tuple[Stage, ...]) -> bool:
    return any(isinstance(item.kind, Latent) for stage in stages for layer in stage for item in layer)


ENGINE = ExLlamaV3()
