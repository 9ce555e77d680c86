"""Axes: a value to a place between 0 and 1, and the round values that get a tick."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvplan.core.frozen import dataclass
from kvplan.core.units import GIB, KIB, MIB, format_tokens
from kvplan.reports.figures import CurveFigure

MAX_LINEAR_RATIO = 8
"""Memory that spans more than this is drawn on a logarithmic axis, where small and large can both be read."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from ``low`` to ``high`` with its ticks and their labels; ``logarithmic`` in base two, else linear."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    logarithmic: bool

    def place(self, value: float) -> float:
        """Where the value lies: 0 at the low end, 1 at the high end."""
        if self.logarithmic:
            value = max(value, self.low)
            return math.log2(value / self.low) / math.log2(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Frame:
    """A plot on the page, in pixels, and its axes: ``across`` from left to right, ``upward`` from bottom to top."""

    left: float
    top: float
    right: float
    bottom: float
    across: Scale
    upward: Scale

    def at(self, across: float, upward: float) -> tuple[float, float]:
        """The pixel of two values."""
        x = self.left + self.across.place(across) * (self.right - self.left)
        return x, self.bottom - self.upward.place(upward) * (self.bottom - self.top)


def token_scale(tokens: Sequence[int], max_ticks: int) -> Scale:
    """Contexts, logarithmic, from the least to the most, with ticks at powers of two: 4k, 8k, 16k."""
    low, high = min(tokens), max(tokens)
    powers = [2**power for power in range(math.ceil(math.log2(low)), high.bit_length()) if low <= 2**power <= high]
    ticks = _thinned(powers, max_ticks) if len(powers) > 1 else sorted({low, high})
    ends = (low, high) if low < high else (low / 2, high * 2)
    labels = tuple(map(format_tokens, ticks))
    return Scale(low=ends[0], high=ends[1], ticks=tuple(ticks), labels=labels, logarithmic=True)


def memory_scale(figure: CurveFigure, max_ticks: int) -> Scale:
    """Bytes: from zero where that shows every line, else logarithmic; some room is left above the limit."""
    sizes = figure.all_bytes()
    top = max(*sizes, round((figure.limit_bytes or 0) * 1.2), 1)
    if min(sizes) * MAX_LINEAR_RATIO >= max(sizes) or min(sizes) < 1:
        return linear_byte_scale(top, max_ticks)
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(top))
    powers = [2**power for power in range(low, high + 1)]
    ticks = tuple(_thinned(powers, max_ticks))
    labels = tuple(_tick_label(tick, _largest_unit(tick)) for tick in ticks)
    return Scale(low=powers[0], high=powers[-1], ticks=ticks, labels=labels, logarithmic=True)


def linear_byte_scale(top_bytes: int, max_ticks: int) -> Scale:
    """Bytes from zero to the first tick that is not below ``top_bytes``; ticks are 1, 2 or 5 times a power of ten."""
    unit = _largest_unit(top_bytes)
    step = max(1.0, _round_step(top_bytes / unit[0], max_ticks - 1) * unit[0])
    count = math.ceil(top_bytes / step - 1e-9)
    ticks = tuple(round(step * index) for index in range(count + 1))
    labels = tuple(_tick_label(tick, unit) for tick in ticks)
    return Scale(low=0, high=ticks[-1], ticks=ticks, labels=labels, logarithmic=False)


def ratio_scale(top: float, max_ticks: int) -> Scale:
    """Shares from zero to the first tick that is not below ``top``."""
    step = _round_step(top, max_ticks - 1)
    ticks = tuple(step * index for index in range(math.ceil(top / step - 1e-9) + 1))
    return Scale(low=0, high=ticks[-1], ticks=ticks, labels=tuple(f"{tick:.6g}" for tick in ticks), logarithmic=False)


def decade_scale(values: Sequence[float]) -> Scale:
    """Positive values on a logarithmic axis between powers of ten; values that are zero lie on its floor."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    ticks = tuple(10.0**power for power in range(low, max(high, low + 1) + 1))
    labels = tuple(f"{tick:g}" for tick in ticks)
    return Scale(low=ticks[0], high=ticks[-1], ticks=ticks, labels=labels, logarithmic=True)


def _largest_unit(size: int) -> tuple[int, str]:
    """The largest binary unit of which there is a whole one: its bytes and its name."""
    units = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
    return next(((unit, name) for unit, name in units if size >= unit), (1, "B"))


def _tick_label(size: int, unit: tuple[int, str]) -> str:
    """``512 MiB``, ``1,024 GiB``, ``0.2 GiB``, ``0``."""
    return f"{size / unit[0]:,.6g} {unit[1]}" if size else "0"


def _round_step(top: float, max_steps: int) -> float:
    """The least of 1, 2 or 5 times a power of ten that gets to ``top`` in so many steps."""
    power: float = 10.0 ** math.floor(math.log10(top / max_steps))
    factors = (factor for factor in (1, 2, 5, 10) if factor * power * max_steps >= top * (1 - 1e-9))
    return next(factors) * power


def _thinned(powers: list[int], most: int) -> list[int]:
    """Every ``n``-th power, counted from powers whose exponent divides evenly, so that at most ``most`` are left."""
    every = math.ceil(len(powers) / most)
    kept = [power for power in powers if (power.bit_length() - 1) % every == 0]
    return kept if len(kept) > 1 else [powers[0], powers[-1]]
