"""H2O, the heavy-hitter oracle (arXiv 2306.14048): half the budget for heavy hitters, half for the newest tokens.

The paper's 20 % is 10 % + 10 % of the tokens.
"""

from __future__ import annotations

from dataclasses import field
from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio, floor_ratio, require_share


@dataclass(frozen=True, slots=True)
class HeavyHitters(KeepRatio):
    """Of the tokens, ``keep`` stay: some by accumulated attention (heavy hitters), some because they are the newest.

    ``recent`` is the share of the newest among the kept tokens, in [0, 1]. ``sinks`` count as heavy hitters.
    """

    name: ClassVar[str] = "h2o"
    aliases: ClassVar[tuple[str, ...]] = ("heavy_hitters", "heavy_hitter")
    keep: Fraction = Fraction(1, 5)
    recent: Fraction = field(default=Fraction(1, 2), kw_only=True)

    def __post_init__(self) -> None:
        """Raise ValueError on ratios out of range."""
        super().__post_init__()
        require_share("recent", self.recent)

    def budgets(self, resident_tokens: int) -> tuple[int, int]:
        """(heavy hitters, newest tokens): their sum is what the ratio keeps."""
        return self.split(floor_ratio(self.keep, resident_tokens))

    def split(self, kept_tokens: int) -> tuple[int, int]:
        """(heavy hitters, newest tokens) of the kept tokens; an odd token goes to the newest."""
        heavy = int((1 - self.recent) * kept_tokens)
        return heavy, kept_tokens - heavy


POLICY = HeavyHitters()
