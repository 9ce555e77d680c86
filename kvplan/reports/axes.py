"""Axes: a value to a place between 0 and 1, and the round values that get a tick."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvplan.core.frozen import dataclass
from kvplan.core.units import GIB, KIB, MIB, format_tokens
from kvplan.reports.figures import CurveFigure

MAX_LINEAR_RATIO = 24
"""Memory that spans more than this is drawn on a logarithmic axis, where small and large can both be read."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from ``low`` to ``high`` with its ticks; ``logarithmic`` in base two, else linear."""

    low: float
    high: float
    ticks: tuple[int, ...]
    logarithmic: bool

    def place(self, value: float) -> float:
        """Where the value lies: 0 at the low end, 1 at the high end."""
        if self.logarithmic:
            return math.log2(value / self.low) / math.log2(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, place: float) -> float:
        """The value at a place: the inverse of ``place``."""
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)


def token_scale(tokens: Sequence[int], max_ticks: int) -> Scale:
    """Contexts, logarithmic, from the least to the most, with ticks at powers of two: 4k, 8k, 16k."""
    low, high = min(tokens), max(tokens)
    powers = [2**power for power in range(math.ceil(math.log2(low)), high.bit_length()) if low <= 2**power <= high]
    ticks = _thinned(powers, max_ticks) if len(powers) > 1 else sorted({low, high})
    if low == high:
        return Scale(low=low / 2, high=high * 2, ticks=tuple(ticks), logarithmic=True)
    return Scale(low=low, high=high, ticks=tuple(ticks), logarithmic=True)


def memory_scale(figure: CurveFigure, max_ticks: int) -> Scale:
    """Bytes: from zero where that shows every line, else logarithmic; some room is left above the limit."""
    sizes = figure.all_bytes()
    top = max(*sizes, round((figure.limit_bytes or 0) * 1.2), 1)
    if min(sizes) * MAX_LINEAR_RATIO >= max(sizes) or min(sizes) < 1:
        return linear_byte_scale(top, max_ticks)
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(top))
    powers = [2**power for power in range(low, high + 1)]
    return Scale(low=powers[0], high=powers[-1], ticks=tuple(_thinned(powers, max_ticks)), logarithmic=True)


def linear_byte_scale(top_bytes: int, max_ticks: int) -> Scale:
    """Bytes from zero to the first tick that is not below ``top_bytes``; ticks are 1, 2 or 5 times a power of ten."""
    step = _round_step(top_bytes, max_ticks - 1)
    count = math.ceil(top_bytes / step)
    return Scale(low=0, high=count * step, ticks=tuple(step * index for index in range(count + 1)), logarithmic=False)


def tick_bytes(size: int) -> str:
    """A round amount of memory: ``512 MiB``, ``16 GiB``, ``0.5 GiB``, ``0``."""
    if size == 0:
        return "0"
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit / 2:
            return f"{_short(size / unit)} {name}"
    return f"{size} B"


def tick_tokens(tokens: int) -> str:
    """``4k``, ``128k``, ``1M``, or the number itself."""
    return format_tokens(tokens)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _round_step(top_bytes: int, max_steps: int) -> int:
    unit = next((unit for unit in (GIB, MIB, KIB) if top_bytes >= unit), 1)
    least = top_bytes / unit / max_steps
    power = 10.0 ** math.floor(math.log10(least))
    factor = next(factor for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return max(1, round(factor * power * unit))


def _thinned(powers: list[int], most: int) -> list[int]:
    """Every ``n``-th power, counted from powers whose exponent divides evenly, so that at most ``most`` are left."""
    every = math.ceil(len(powers) / most)
    kept = [power for power in powers if (power.bit_length() - 1) % every == 0]
    return kept if len(kept) > 1 else [powers[0], powers[-1]]
