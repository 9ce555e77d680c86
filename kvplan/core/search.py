"""Solving a size rule for its argument: what an engine without blocks holds in a given memory."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.units import MAX_TOKENS


def largest(holds: Callable[[int], bool], limit: int, guess: int | None = None) -> int:
    """The largest number up to ``limit`` for which ``holds`` is true, and 0 where it is not for 1.

    A good ``guess`` saves most of the questions.
    """
    low, high = _bracket(holds, limit, guess) if guess is not None and 0 < guess < limit else (0, limit)
    if high == limit and holds(limit):
        return limit
    return _bisect(holds, low, high)


def last_true(holds: Callable[[int], bool], high: int = MAX_TOKENS) -> int | None:
    """The largest number below ``high`` for which ``holds`` is true, if it is true up to some number and false after.

    None where ``holds`` is true at ``high`` still: the rule stopped growing.
    """
    return None if holds(high) else _bisect(holds, 0, high)


def _bracket(holds: Callable[[int], bool], limit: int, guess: int) -> tuple[int, int]:
    """Numbers around the guess with ``holds`` true (or 0) at the lower and false (or ``limit``) at the upper."""
    step = 1
    if holds(guess):
        low, high = guess, guess + 1
        while high < limit and holds(high):
            low, step = high, step * 2
            high += step
        return low, min(high, limit)
    low, high = guess - 1, guess
    while low > 0 and not holds(low):
        high, step = low, step * 2
        low -= step
    return max(low, 0), high


def _bisect(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last number for which ``holds`` is true, which it is at ``low`` (or ``low`` is 0) and is not at ``high``."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
