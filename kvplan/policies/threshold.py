"""Attention threshold: tokens stay that receive much attention from each query that sees them (Scissorhands, KVzap).

Without a ``threshold`` the share decides alone. With one, how many tokens pass depends on the text: ``keep`` is the
most that stay, and what to plan for.
"""

from __future__ import annotations

from dataclasses import field
from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio, require_share


@dataclass(frozen=True, slots=True)
class Threshold(KeepRatio):
    """The ``keep`` of the tokens with the highest mean attention are kept, at most.

    Mean attention is a token's attention weight, averaged over the queries that see it. A ``threshold`` above 0 also
    drops the tokens whose mean attention lies below it, but never all of them.
    """

    name: ClassVar[str] = "threshold"
    threshold: Fraction = field(default=Fraction(0), kw_only=True)

    def __post_init__(self) -> None:
        """Raise ValueError on ratios out of range."""
        super().__post_init__()
        require_share("threshold", self.threshold)


POLICY = Threshold()
