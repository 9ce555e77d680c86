"""SnapKV (arXiv 2404.14469): queries of the prompt's last window vote for the tokens to keep.

The window itself is always kept (kvpress 0.5.5 ``SnapKVPress``: 64 tokens).
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import Place, Tier, floor_ratio, require_ratio, require_tokens


@dataclass(frozen=True, slots=True)
class SnapKV:
    """The ``keep`` of the tokens that the last ``window`` queries attend to most are kept, the window among them."""

    name: ClassVar[str] = "snapkv"
    aliases: ClassVar[tuple[str, ...]] = ("snap_kv",)
    keep: Fraction = Fraction(1, 2)
    window: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError on options that keep nothing."""
        require_ratio("keep", self.keep)
        require_tokens("window", self.window, 1)

    def tiers(self, resident_tokens: int, place: Place) -> tuple[Tier, ...]:
        """One tier: ``keep`` of the resident tokens, but never less of the window than there is."""
        return (Tier(max(floor_ratio(self.keep, resident_tokens), min(self.window, resident_tokens))),)

    def growth(self, resident_tokens: int, place: Place) -> Fraction:
        """1 until the window is full, 0 while it outweighs the ratio, then ``keep`` on average."""
        if resident_tokens < self.window:
            return Fraction(1)
        return self.keep if self.keep * resident_tokens >= self.window else Fraction(0)


POLICY = SnapKV()
