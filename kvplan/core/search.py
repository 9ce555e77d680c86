"""Solving a size rule for its argument: what an engine without blocks holds in a given memory."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.units import MAX_TOKENS


def largest(holds: Callable[[int], bool], limit: int) -> int:
    """The largest number up to ``limit`` for which ``holds`` is true, and 0 where it is not for 1."""
    found = last_true(holds, limit)
    return limit if found is None else found


def last_true(holds: Callable[[int], bool], high: int = MAX_TOKENS) -> int | None:
    """The largest number below ``high`` for which ``holds`` is true, if it is true up to some number and false after.

    None where ``holds`` is true at ``high`` still: the rule stopped growing.
    """
    low = 0
    if holds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
