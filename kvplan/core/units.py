"""Numbers as people write them: tokens (``128k``), bytes (``40GiB``), and back."""

from __future__ import annotations

import re
from fractions import Fraction

from kvplan.core.errors import UsageError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_TOKEN_UNITS = {"": 1, "k": KIB, "ki": KIB, "m": MIB, "mi": MIB}
_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024**4,
}
_QUANTITY = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([a-z]*)", re.ASCII)

MAX_TOKENS = 2**40
"""No context, batch or encoder length above this is taken for meant (a trillion tokens)."""


def cdiv(dividend: int, divisor: int) -> int:
    """Ceiling division of non-negative integers."""
    return -(-dividend // divisor)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``value``."""
    return cdiv(value, multiple) * multiple


def parse_tokens(text: str, what: str = "tokens") -> int:
    """A token count: ``128k`` is 131072, ``1M`` is 1048576, ``128000`` is itself. Raises UsageError."""
    tokens = _parse_quantity(text, _TOKEN_UNITS)
    if tokens is None:
        raise UsageError(f"{what} {text!r} is not a token count", "write it like 8192, 32k or 1M")
    if tokens.denominator != 1 or tokens < 1:
        raise UsageError(f"{what} {text!r} is not a whole positive number of tokens", "write it like 8192, 32k or 1M")
    if tokens > MAX_TOKENS:
        raise UsageError(f"{what} {text!r} is absurdly large", f"the most that is taken is {MAX_TOKENS}")
    return int(tokens)


def parse_bytes(text: str, what: str = "memory") -> int:
    """A byte count: ``40GiB`` is binary, ``40GB`` is decimal, a bare number is bytes. Raises UsageError."""
    size = _parse_quantity(text, _BYTE_UNITS)
    if size is None or size < 1:
        raise UsageError(f"{what} {text!r} is not an amount of memory", "write it like 40GiB, 80GB or 512MiB")
    return int(size)


def parse_ratio(text: str, what: str = "ratio") -> Fraction:
    """A fraction in (0, 1], written ``0.2`` or ``20%``; exact, so that 0.2 of 10 is 2. Raises UsageError."""
    try:
        ratio = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{what} {text!r} is not a ratio", "write it like 0.2 or 20%") from None
    if not 0 < ratio <= 1:
        raise UsageError(f"{what} {text!r} lies outside (0, 1]", "write it like 0.2 or 20%")
    return ratio


def format_bytes(size: int) -> str:
    """Binary units with two decimals: ``40.00 GiB``, ``512.00 MiB``, ``68.62 KiB``; below 10 KiB bytes: ``2,112 B``."""
    if size >= GIB:
        return f"{size / GIB:,.2f} GiB"
    if size >= MIB:
        return f"{size / MIB:.2f} MiB"
    if size >= 10 * KIB:
        return f"{size / KIB:.2f} KiB"
    return f"{size:,} B"


def format_tokens(tokens: int) -> str:
    """Tokens as people say them: ``128k`` for 131072, ``1M`` for 1048576, else the number with commas."""
    if tokens % MIB == 0:
        return f"{tokens // MIB}M"
    if tokens % KIB == 0:
        return f"{tokens // KIB}k"
    return f"{tokens:,}"


def format_count(count: int) -> str:
    """A parameter count: ``70.55B``, ``135M``."""
    if count >= 10**9:
        return f"{count / 10**9:.2f}B"
    if count >= 10**6:
        return f"{count / 10**6:.1f}M"
    return f"{count:,}"


def _parse_quantity(text: str, units: dict[str, int]) -> Fraction | None:
    match = _QUANTITY.fullmatch(text.strip().lower())
    if match is None or len(text) > 40 or match[2] not in units:
        return None
    return Fraction(match[1].replace(",", "").replace("_", "")) * units[match[2]]
