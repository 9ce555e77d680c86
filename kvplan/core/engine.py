"""The contract of an engine: how the kept tokens of a rank's layers are rounded, padded, grouped and reserved.

An engine sees the whole list of layers of a rank and never a model's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind
from kvplan.core.request import SizeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAllocation:
    """What one layer of a group takes on one rank for one sequence."""

    item: PlacedKind
    count: int
    allocated_tokens: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAllocation:
    """What a rank allocates for one sequence; engines with blocks state them."""

    groups: tuple[GroupAllocation, ...]
    bytes_per_block: int | None = None
    blocks_per_sequence: int | None = None

    @property
    def sequence_bytes(self) -> int:
        """Bytes of one sequence on this rank."""
        return sum(group.count * group.allocated_bytes for group in self.groups)


class Engine(Protocol):
    """What sizing asks of an engine; each file in ``kvplan/engines`` defines one as ``ENGINE``."""

    @property
    def name(self) -> str:
        """The name that ``--engine`` takes."""
        ...

    @property
    def version(self) -> str | None:
        """The release whose rules these are; None for plain geometry."""
        ...

    @property
    def certainty(self) -> str:
        """``exact``, ``rule`` or ``estimate``."""
        ...

    def allocate(self, stage: Sequence[tuple[PlacedKind, ...]], request: SizeRequest) -> RankAllocation:
        """The allocation of one tensor-parallel rank that holds these layers, for one sequence."""
        ...
