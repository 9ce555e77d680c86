"""No engine: plain geometry. Every kept token is allocated, nothing is rounded, nothing is reserved."""

from __future__ import annotations

from kvplan.core.engine import (
    Allocation,
    EngineRequest,
    EngineSettings,
    GroupAllocation,
    ModelFacts,
    RankAllocation,
    Stage,
    given_flags,
)
from kvplan.core.errors import UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import group_kinds, store_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class NoEngine:
    """The lower bound that every engine's allocation is compared with."""

    name: str = "none"
    version: str | None = None
    certainty: str = "exact"

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """Any format that kvplan knows."""
        return text

    def allocate(self, request: EngineRequest) -> Allocation:
        """Each rank holds its heads (at least one), its share of the tokens under ``dcp``, and its state."""
        if flags := given_flags(request.settings):
            raise UsageError(f"{flags[0]} says nothing without an engine", "add --engine vllm, for example")
        stages = tuple(_allocate_rank(stage, request) for stage in request.stages)
        return Allocation(stages=stages, notes=_scheme_notes(request))


def _scheme_notes(request: EngineRequest) -> tuple[str, ...]:
    """That engines would store less than 16 bits, where the checkpoint asks for it and the request does not."""
    scheme = request.facts.kv_scheme
    kv_format = request.choice.kv_format
    if scheme is None or not kv_format.key == kv_format.value == kv_format.native:
        return ()
    return (f"the checkpoint asks for a cache in {scheme}, which most engines follow (--kv-dtype {scheme})",)


def _allocate_rank(stage: Stage, request: EngineRequest) -> RankAllocation:
    parallel = request.parallel
    groups = []
    sequence_bytes = 0
    for item, count in group_kinds(stage, request.choice.policy).items():
        stored = store_kind(
            item, request.choice, request.context_tokens, request.encoder_tokens, parallel.head_ranks, parallel.dcp
        )
        sequence_bytes += count * stored.total_bytes
        groups.append(
            GroupAllocation(
                item=item,
                count=count,
                allocated_tokens=stored.kept_tokens,
                allocated_bytes=request.sequences * stored.total_bytes,
            )
        )
    return RankAllocation(
        groups=tuple(groups), allocated_bytes=request.sequences * sequence_bytes, sequence_bytes=sequence_bytes
    )


ENGINE = NoEngine()
