"""The rows of a hardware search: what fits, the smallest first, and why the rest does not."""

from __future__ import annotations

from typing import Any

from kvplan.core.units import format_bytes
from kvplan.planning.hardware_search import Found, SearchResult

FOUND_HEADER = ("hardware", "placement", "memory", "capacity", "at once", "spare a device")


def search_verdict(result: SearchResult, model: str) -> str:
    """The smallest hardware, in words."""
    if not result.found:
        return f"No node of up to 8 of the known devices fits {model} (--explain says why)."
    first = result.found[0]
    return f"Smallest that fits {model}: {first.count} x {first.accelerator.name} ({_placement(first)})."


def found_row(found: Found) -> tuple[str, ...]:
    """One line of the table."""
    capacity = found.capacity
    tokens = "" if capacity.capacity_tokens is None else f"{capacity.capacity_tokens:,}"
    most = "" if capacity.max_concurrency is None else f"{capacity.max_concurrency:.2f}"
    memory = format_bytes(found.total_memory_bytes)
    return (
        f"{found.count} x {found.accelerator.name}",
        _placement(found),
        memory,
        tokens,
        most,
        format_bytes(found.spare_bytes),
    )


def _placement(found: Found) -> str:
    parallel = found.spread.parallel
    sizes = [f"{name} {getattr(parallel, name)}" for name in ("tp", "pp", "dp") if getattr(parallel, name) > 1]
    return ", ".join(sizes) or "one device"


def rejected_lines(result: SearchResult) -> list[str]:
    """Why each of the others does not fit."""
    lines = ["Why the others do not fit", ""]
    lines += [f"{entry.count} x {entry.accelerator.name}: {entry.reason}" for entry in result.rejected]
    return lines


def search_fields(result: SearchResult, explain: bool) -> dict[str, Any]:
    """As JSON has it."""
    fields: dict[str, Any] = {"found": [_found_fields(found) for found in result.found]}
    if explain:
        fields["rejected"] = [
            {"accelerator": entry.accelerator.name, "count": entry.count, "reason": entry.reason}
            for entry in result.rejected
        ]
    return fields


def _found_fields(found: Found) -> dict[str, Any]:
    parallel = found.spread.parallel
    return {
        "accelerator": {
            "name": found.accelerator.name,
            "count": found.count,
            "memory_bytes": found.accelerator.memory_bytes,
        },
        "placement": {"tp": parallel.tp, "pp": parallel.pp, "dp": parallel.dp, "dcp": parallel.dcp},
        "num_blocks": found.capacity.num_blocks,
        "capacity_tokens": found.capacity.capacity_tokens,
        "max_concurrency": found.capacity.max_concurrency,
        "kv_bytes_needed": found.check.needed_bytes,
        "available_bytes": found.check.available_bytes,
    }
