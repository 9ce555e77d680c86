"""No engine: plain geometry. Every kept token is allocated, nothing is rounded, nothing is reserved."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.engine import GroupAllocation, RankAllocation
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds, store_kind
from kvplan.core.request import SizeRequest


@dataclass(frozen=True, slots=True)
class NoEngine:
    """The lower bound that every engine's allocation is compared with."""

    name: str = "none"
    version: str | None = None
    certainty: str = "exact"

    def allocate(self, stage: Sequence[tuple[PlacedKind, ...]], request: SizeRequest) -> RankAllocation:
        """Each rank holds its heads (at least one), its share of the tokens under ``dcp``, and its state."""
        parallel = request.parallel
        groups = []
        for item, count in group_kinds(stage, request.choice.policy).items():
            stored = store_kind(
                item,
                request.choice,
                request.context_tokens,
                request.encoder_tokens,
                parallel.head_ranks,
                parallel.dcp,
            )
            groups.append(
                GroupAllocation(
                    item=item,
                    count=count,
                    allocated_tokens=stored.kept_tokens,
                    allocated_bytes=stored.total_bytes,
                )
            )
        return RankAllocation(groups=tuple(groups))


ENGINE = NoEngine()
