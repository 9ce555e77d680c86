"""H2O, the heavy-hitter oracle (arXiv 2306.14048): half the budget for heavy hitters, half for the newest tokens.

The paper's 20 % is 10 % + 10 % of the tokens.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio, floor_ratio


@dataclass(frozen=True, slots=True)
class HeavyHitters(KeepRatio):
    """Of the tokens, ``keep`` stay: half by accumulated attention (heavy hitters), half because they are the newest."""

    name: ClassVar[str] = "h2o"
    aliases: ClassVar[tuple[str, ...]] = ("heavy_hitters", "heavy_hitter")
    keep: Fraction = Fraction(1, 5)

    def budgets(self, resident_tokens: int) -> tuple[int, int]:
        """(heavy hitters, newest tokens): their sum is what is kept, and an odd token goes to the newest."""
        kept = floor_ratio(self.keep, resident_tokens)
        return kept // 2, kept - kept // 2


POLICY = HeavyHitters()
