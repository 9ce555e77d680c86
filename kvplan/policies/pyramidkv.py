"""PyramidKV (arXiv 2406.02069): lower layers keep more tokens than higher ones, ``keep`` of them on average.

Budgets and fallback are those of kvpress 0.5.5 (``PyramidKVPress.get_layer_budget``), with ``keep`` of the tokens
rounded down first, so that the budgets of all layers add up to those of a flat ``keep`` exactly.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepVoted, Place, Tier


@dataclass(frozen=True, slots=True)
class PyramidKV(KeepVoted):
    """Budgets fall linearly from the first layer to the last; their mean is ``keep`` of the tokens.

    ``beta`` makes the pyramid steep: the last layer keeps 1 / ``beta`` of the mean, unless the first layer would then
    keep more than everything but the ``window``. Where the last layer could not hold the tokens that are always kept,
    all layers keep the same, as under SnapKV.
    """

    name: ClassVar[str] = "pyramidkv"
    aliases: ClassVar[tuple[str, ...]] = ("pyramid_kv", "pyramid")
    per_layer: ClassVar[bool] = True
    beta: int = 20

    def __post_init__(self) -> None:
        """Raise ValueError on options that keep nothing."""
        super().__post_init__()
        if self.beta < 1:
            raise ValueError(f"beta must be at least 1, not {self.beta}")

    def tiers(self, resident_tokens: int, place: Place) -> tuple[Tier, ...]:
        """One tier with the layer's budget."""
        mean = self.keep * resident_tokens
        ends = self._ends(resident_tokens, mean)
        if ends is None:
            return super().tiers(resident_tokens, place)
        return (Tier(round(_between(ends, place) - mean % 1)),)

    def growth(self, resident_tokens: int, place: Place) -> Fraction:
        """How steeply the layer's budget rises with the context, on average."""
        mean = self.keep * resident_tokens
        ends = self._ends(resident_tokens, mean)
        if ends is None:
            return super().growth(resident_tokens, place)
        if ends[0] == resident_tokens - self.window:
            return _between((Fraction(1), 2 * self.keep - 1), place)
        least = self.keep / self.beta
        return _between((2 * self.keep - least, least), place)

    def _ends(self, resident_tokens: int, mean: Fraction) -> tuple[Fraction, Fraction] | None:
        """Budgets of the first and the last layer; None where all layers keep the same."""
        least = mean / self.beta
        if 2 * mean - least >= resident_tokens - self.window:
            least = 2 * mean - (resident_tokens - self.window)
        most = 2 * mean - least
        return (most, least) if resident_tokens >= most >= least >= self.always_kept else None


def _between(ends: tuple[Fraction, Fraction], place: Place) -> Fraction:
    """The value at a layer on the line from the first layer to the last; the middle where there is one layer."""
    first, last = ends
    if place.count == 1:
        return (first + last) / 2
    return first + (last - first) * Fraction(place.index, place.count - 1)


POLICY = PyramidKV()
