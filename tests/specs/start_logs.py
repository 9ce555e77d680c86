"""Logs for tests: where the stored ones are, and how an excerpt is read."""

from __future__ import annotations

from pathlib import Path

from kvplan.core.measured import MeasuredStart
from kvplan.core.units import GIB
from kvplan.specs.start_log import parse_start_log

LOGS = Path(__file__).parents[1] / "assets" / "logs"


def parse(text: str) -> MeasuredStart:
    return parse_start_log(text.strip("\n").splitlines())


def gib(value: float | None) -> int | None:
    return None if value is None else round(value * GIB)


def in_gib(start: MeasuredStart, *fields: str) -> tuple[float | None, ...]:
    sizes = (getattr(start, field) for field in fields)
    return tuple(None if size is None else round(size / GIB, 4) for size in sizes)
