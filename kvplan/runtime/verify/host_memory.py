"""How much memory the host has, and how much of it this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

from kvplan.core.errors import UnsupportedError
from kvplan.core.units import KIB

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""A container's limit and use, in control groups of version 2 and 1."""


def host_memory() -> tuple[int, int]:
    """Total and free bytes; inside a container, those of the container.

    Linux says what is available in ``/proc/meminfo``; elsewhere the free pages count. Raises UnsupportedError where
    neither is told.
    """
    total, free = _linux_memory() or _posix_memory()
    for limit_path, used_path in _LIMITS:
        limit, used = _number(limit_path), _number(used_path)
        if limit is not None and used is not None and limit < total:
            total, free = limit, min(free, max(0, limit - used))
    return total, free


def _linux_memory() -> tuple[int, int] | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    total, free = entries.get("MemTotal"), entries.get("MemAvailable")
    return None if total is None or free is None else (int(total.split()[0]) * KIB, int(free.split()[0]) * KIB)


def _posix_memory() -> tuple[int, int]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    except (AttributeError, ValueError, OSError):
        raise UnsupportedError(
            "this system does not tell how much memory is free", "run on Linux, or with --device cuda"
        ) from None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such control group, or "max"
        return None
