"""Which of several offers nothing beats on both counts: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(offers: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, loss) is on the front: no other is at most as large in both and smaller in one."""
    return [not any(_beats(other, offer) for other in offers) for offer in offers]


def _beats(other: tuple[float, float], offer: tuple[float, float]) -> bool:
    return other != offer and other[0] <= offer[0] and other[1] <= offer[1]
