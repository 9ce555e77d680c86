"""One question put to SGLang: the pools of every stage, what requests take of them, and what a memory holds."""

from __future__ import annotations

from collections import Counter

from kvplan.core.engine import Allocation, EngineRequest, GroupAllocation, RankAllocation
from kvplan.core.errors import DoesNotFitError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind
from kvplan.core.units import cdiv, round_up
from kvplan.engines.sglang.backends import Paging
from kvplan.engines.sglang.families import UNCHUNKED
from kvplan.engines.sglang.hardware import Hardware
from kvplan.engines.sglang.layers import StageReader, StateLayer, Traits, repartition
from kvplan.engines.sglang.pools import Pools, PoolSizes, check_longest, window_cap, window_tokens
from kvplan.engines.sglang.states import StateRules, draft_state_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The engine's own options, resolved."""

    window_ratio: float
    state_ratio: float
    per_request: int
    ssm_dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The pools and states of one rank of a stage, and the layers that have neither."""

    pools: Pools
    states: tuple[StateLayer, ...]
    bare: tuple[tuple[PlacedKind, int], ...] = ()

    @property
    def slot_bytes(self) -> int:
        """One state slot in all layers."""
        return sum(layer.slot_bytes for layer in self.states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that sizes the pools of one replica."""

    request: EngineRequest
    traits: Traits
    hardware: Hardware
    paging: Paging
    options: Options
    stages: tuple[StagePlan, ...]

    @property
    def page(self) -> int:
        """Rows of a page on one rank."""
        return self.paging.page_tokens

    @property
    def span(self) -> int:
        """Tokens of a page: its rows on all ranks that share a sequence's tokens."""
        return self.page * self.request.parallel.dcp

    @property
    def draft_tokens(self) -> int:
        """Tokens verified in a step, 0 without drafting."""
        return draft_width(self.request)

    @property
    def request_tokens(self) -> int:
        """Whole pages of one request; an encoder's tokens take rows too."""
        return round_up(self.request.context_tokens + self.request.encoder_tokens, self.span)

    @property
    def window_each(self) -> int:
        """Windowed tokens of one running request.

        Prefill chunks take what is left of the pool (``managers/schedule_policy.py:1014``).
        """
        return min(self.request_tokens, window_tokens(self.traits.window, self.page, self.draft_tokens))

    @property
    def slots(self) -> int:
        """State slots with which all sequences run at once."""
        return self.request.sequences * self.options.per_request if self.traits.recurrent else 0

    def needed(self, stage: StagePlan) -> PoolSizes:
        """The smallest pools that hold the request."""
        rows = self.request.sequences * self.request_tokens // self.request.parallel.dcp
        return stage.pools.need(
            rows if stage.pools.layers else 0, self.request.sequences * self.window_each, self.traits.window
        )

    def rank(self, stage: StagePlan) -> RankAllocation:
        """What one rank allocates for the request."""
        sizes = self.needed(stage)
        groups = [*self._row_groups(stage, sizes), *self._state_groups(stage)]
        groups += [
            GroupAllocation(item=item, count=count, allocated_tokens=0, allocated_bytes=0) for item, count in stage.bare
        ]
        drafts = sum(draft_state_bytes(layer, self.draft_tokens) for layer in stage.states)
        used = sum(group.count * group.allocated_bytes for group in groups)
        extra = sizes.full * stage.pools.extra_row_bytes
        reserve = stage.pools.reserved_bytes() + stage.slot_bytes + drafts
        page_bytes = self.page * (stage.pools.row_bytes(windowed=False) or stage.pools.row_bytes(windowed=True))
        sequences = self.request.sequences
        return RankAllocation(
            groups=tuple(groups),
            allocated_bytes=used + extra + reserve + sequences * drafts,
            sequence_bytes=(used + extra) // sequences + drafts,
            bytes_per_block=page_bytes or None,
            blocks_per_sequence=self.request_tokens // self.span if page_bytes else None,
        )

    def _row_groups(self, stage: StagePlan, sizes: PoolSizes) -> list[GroupAllocation]:
        counts: Counter[tuple[PlacedKind, int, bool, bool]] = Counter(
            (layer.item, layer.row_bytes, layer.windowed, layer.index) for layer in stage.pools.layers
        )
        dcp, sequences = self.request.parallel.dcp, self.request.sequences
        return [
            GroupAllocation(
                item=item,
                count=count,
                allocated_tokens=(sizes.windowed if windowed else sizes.full) * dcp // sequences,
                allocated_bytes=(sizes.windowed if windowed else sizes.full) * row,
            )
            for (item, row, windowed, _), count in counts.items()
        ]

    def _state_groups(self, stage: StagePlan) -> list[GroupAllocation]:
        counts = Counter((layer.item, layer.slot_bytes) for layer in stage.states)
        return [
            GroupAllocation(item=item, count=count, allocated_tokens=0, allocated_bytes=self.slots * slot)
            for (item, slot), count in counts.items()
        ]

    def state_rules(self) -> StateRules:
        """What sizes the state slots under a memory."""
        layers = [len(stage.states) for stage in self.stages]
        settings = self.request.settings
        return StateRules(
            all_bytes=sum(stage.slot_bytes for stage in self.stages),
            stage_share=max(layers) / max(sum(layers), 1),
            per_request=self.options.per_request,
            memory_ratio=self.options.state_ratio,
            prefix_caching=settings.prefix_caching is not False,
            draft_tokens=self.draft_tokens,
            running=settings.max_num_seqs or (48 if self.draft_tokens else None),
        )

    def fit(self, memory_bytes: int) -> tuple[PoolSizes, int]:
        """(pools of the tightest stage, state slots) of a memory. Raises DoesNotFitError."""
        slots = 0
        if self.traits.recurrent:
            slots, memory_bytes = self.state_rules().split(memory_bytes)
        attending = [stage.pools for stage in self.stages if stage.pools.layers]
        if not attending:
            return PoolSizes(full=0), slots
        tokens = min(pools.fit(memory_bytes).capacity for pools in attending)
        sizes = attending[0].of_tokens(tokens)
        if sizes.capacity <= 0:
            raise DoesNotFitError(
                "Not enough memory. Please try to increase --mem-fraction-static. (SGLang's own words)",
                f"a page of {self.page} tokens takes {int(self.page * max(p.cell_bytes for p in attending)):,} bytes",
            )
        floor = self.traits.window + self.page
        if sizes.full and any(pools.hybrid for pools in attending) and sizes.windowed <= floor:
            raise DoesNotFitError(
                f"SWA pool ({sizes.windowed} tokens) cannot hold even one request: the prefill admission floor is "
                f"{floor} (SGLang's own words)",
                "give more memory, or raise swa_full_tokens_ratio",
            )
        longest = self.request.max_model_len + self.request.encoder_tokens
        check_longest(sizes.capacity * self.request.parallel.dcp, longest)
        return sizes, slots

    def concurrency(self, sizes: PoolSizes, slots: int) -> float:
        """Requests of ``max_model_len`` that the pools and slots hold at once."""
        longest = self.request.max_model_len + self.request.encoder_tokens
        limits = []
        if sizes.full:
            limits.append(sizes.full * self.request.parallel.dcp / longest)
        if sizes.windowed:
            each = min(longest, window_tokens(self.traits.window, self.page, self.draft_tokens))
            limits.append(max(1.0, sizes.windowed / each))
        if self.traits.recurrent:
            limits.append(float(slots // self.options.per_request))
        return min(limits)

    def answer(self) -> Allocation:
        """The allocation without its words."""
        ranks = tuple(self.rank(stage) for stage in self.stages)
        memory = self.request.settings.kv_memory_bytes
        answer = Allocation(
            stages=ranks,
            block_tokens=self.span if self.traits.attends else None,
            max_num_batched_tokens=None
            if self.traits.family in UNCHUNKED
            else chunk_tokens(self.request, self.hardware),
        )
        if memory is None:
            return answer
        sizes, slots = self.fit(memory)
        tokens = sizes.capacity * self.request.parallel.dcp
        return Allocation(
            stages=ranks,
            block_tokens=answer.block_tokens,
            max_num_batched_tokens=answer.max_num_batched_tokens,
            num_blocks=cdiv(sizes.capacity, self.page) if self.traits.attends else None,
            capacity_tokens=tokens if self.traits.attends else None,
            max_concurrency=self.concurrency(sizes, slots),
        )


def draft_width(request: EngineRequest) -> int:
    """``--speculative-num-draft-tokens``: the drafted tokens (by default one for each draft layer) and the last one.

    0 without drafting.
    """
    drafted = request.settings.num_speculative_tokens or request.num_draft_layers
    return drafted + 1 if drafted else 0


def chunk_tokens(request: EngineRequest, hardware: Hardware) -> int:
    """``--chunked-prefill-size``."""
    return request.settings.max_num_batched_tokens or hardware.chunked_prefill_size


def read_stages(
    request: EngineRequest, traits: Traits, hardware: Hardware, paging: Paging, options: Options
) -> tuple[StagePlan, ...]:
    """The pools and states of each stage's rank."""
    format_name = request.choice.kv_format.name
    fp8_index = format_name == "fp8_e4m3" and hardware.generation in ("sm90", "sm100")
    fp4 = format_name == "nvfp4"
    reader = StageReader(
        request,
        traits,
        ssm_dtype=options.ssm_dtype,
        fp8_index=fp8_index,
        scale_copies=2 if fp4 and paging.backend == "flashinfer" and hardware.generation == "sm100" else 1,
    )
    stages = repartition(request)
    cap = _request_cap(request, traits, hardware, paging.page_tokens)
    workspace = workspace_row_bytes(reader) if fp4 and paging.backend == "flashinfer" else 0
    plans = []
    for rank, stage in enumerate(stages):
        layers = reader.pools(stage, request.num_draft_layers if rank == len(stages) - 1 else 0)
        pools = Pools(
            layers=tuple(layers),
            page_tokens=paging.page_tokens,
            ratio=options.window_ratio,
            extra_row_bytes=workspace if layers else 0,
            fixed_bytes=8 * len(layers) if fp4 else 0,
            request_cap=cap if any(not layer.windowed for layer in layers) else None,
            draft_index=traits.sparse,
        )
        plans.append(StagePlan(pools=pools, states=tuple(reader.states(stage)), bare=reader.bare(stage)))
    return tuple(plans)


def workspace_row_bytes(reader: StageReader) -> int:
    """The FP8 copy of keys and values that FlashInfer prefills from, shared by all layers.

    ``layers/quantization/fp4_kv_cache_quant_method.py:744``.
    """
    heads, head_dim, v_head_dim = reader.uniform.kind.head_shape()
    return cdiv(heads or 0, reader.request.parallel.head_ranks) * ((head_dim or 0) + (v_head_dim or 0))


def _request_cap(request: EngineRequest, traits: Traits, hardware: Hardware, page: int) -> int | None:
    """The windowed pool's size, where running requests are stated and no prefix is cached (``:946``)."""
    settings = request.settings
    if not traits.window_pool or settings.prefix_caching is not False or settings.max_num_seqs is None:
        return None
    each = window_tokens(traits.window, page, draft_width(request))
    return window_cap(each, page, settings.max_num_seqs, chunk_tokens(request, hardware))
