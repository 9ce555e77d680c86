"""Importance: a weighted score of the attention that a token has received, its recency, and whether it is special."""

from __future__ import annotations

from dataclasses import field
from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio, require_share


@dataclass(frozen=True, slots=True)
class Importance(KeepRatio):
    """The ``keep`` of the tokens with the highest weighted score are kept.

    Each term lies in [0, 1] before it is weighted: ``attention`` (accumulated, as a share of the most that any token
    has received), ``recency`` (position over the newest position) and ``special`` (1 for special tokens). Only the
    proportions of the weights matter; they lie in [0, 1] each.
    """

    name: ClassVar[str] = "importance"
    attention: Fraction = field(default=Fraction(2, 5), kw_only=True)
    recency: Fraction = field(default=Fraction(3, 10), kw_only=True)
    special: Fraction = field(default=Fraction(3, 10), kw_only=True)

    def __post_init__(self) -> None:
        """Raise ValueError on ratios out of range, and where no term has a weight."""
        super().__post_init__()
        for name in ("attention", "recency", "special"):
            require_share(name, getattr(self, name))
        if not (self.attention or self.recency or self.special):
            raise ValueError("one of attention, recency and special needs a weight above 0")


POLICY = Importance()
