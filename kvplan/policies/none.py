"""No policy: every token that geometry keeps is kept."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import Place, Tier


@dataclass(frozen=True, slots=True)
class KeepAll:
    """Every resident token is kept."""

    name: ClassVar[str] = "none"
    aliases: ClassVar[tuple[str, ...]] = ("full",)

    def tiers(self, resident_tokens: int, place: Place) -> tuple[Tier, ...]:
        """One tier with everything."""
        return (Tier(resident_tokens),)

    def growth(self, resident_tokens: int, place: Place) -> Fraction:
        """Every new token is kept."""
        return Fraction(1)


POLICY = KeepAll()
