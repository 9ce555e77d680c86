"""Accelerators as plain text cells and plain values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvplan.core.accelerator import READINGS, Accelerator
from kvplan.core.units import format_bytes

DTYPES = ("fp16", "bf16", "fp8", "int8", "fp4")
ACCELERATOR_HEADER = ("accelerator", "memory", "GB/s", "bf16", "fp8", "fp4", "link GB/s")
DETAIL_HEADER = ("field", "value", "remark")
CSV_DETAIL_HEADER = ("field", "value", "source")

_LABELS = {
    "nominal_gigabytes": "size on the box",
    "memory_bytes": "memory",
    "management_bytes": "management total",
    "unified_memory": "unified memory",
    "compute_capability": "compute capability",
    "gfx_target": "target",
    "bandwidth_bytes_per_second": "bandwidth",
    "peak_flops": "dense rates",
    "link": "link",
    "link_bytes_per_second": "link speed",
}


def accelerator_row(device: Accelerator) -> tuple[str, ...]:
    """One device: rates in TFLOP/s (16-bit in BF16, else in FP16); what is unknown is left blank."""
    rates = device.peak_flops
    return (
        device.name,
        format_bytes(device.memory_bytes),
        _giga(device.bandwidth_bytes_per_second),
        _tera(rates.get("bf16", rates.get("fp16"))),
        _tera(rates.get("fp8")),
        _tera(rates.get("fp4")),
        _giga(device.link_bytes_per_second),
    )


def accelerator_fields(device: Accelerator) -> dict[str, Any]:
    """The ``result`` of ``kvplan accelerators show``, and an entry of ``list``; exact numbers, null where unknown."""
    capability = device.compute_capability
    return {
        "name": device.name,
        "title": device.title or device.name,
        "vendor": device.vendor,
        "aliases": list(device.aliases),
        "memory_bytes": device.memory_bytes,
        "memory_reading": device.memory_reading,
        "management_bytes": device.management_bytes,
        "nominal_gigabytes": device.nominal_gigabytes,
        "unified_memory": device.unified_memory,
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "gfx_target": device.gfx_target,
        "bandwidth_bytes_per_second": device.bandwidth_bytes_per_second,
        "peak_flops": {dtype: device.peak_flops.get(dtype) for dtype in DTYPES},
        "link": device.link,
        "link_bytes_per_second": device.link_bytes_per_second,
        "sources": dict(device.sources),
        "notes": list(device.notes),
    }


def flat_fields(device: Accelerator) -> dict[str, Any]:
    """The fields as one line of CSV: a column for each dtype's rate, aliases apart by spaces, no sources."""
    fields = accelerator_fields(device)
    rates = {f"peak_flops_{dtype}": rate for dtype, rate in fields.pop("peak_flops").items()}
    kept = {name: value for name, value in fields.items() if name not in ("aliases", "sources", "notes")}
    return {**kept, **rates, "aliases": " ".join(device.aliases)}


def detail_rows(device: Accelerator) -> list[tuple[str, str, str]]:
    """Every known value of a device, with what it means."""
    capability = device.compute_capability
    reading = READINGS[device.memory_reading]
    rows = [(_LABELS["memory_bytes"], format_bytes(device.memory_bytes), f"{device.memory_bytes:,} bytes: {reading}")]
    if device.management_bytes is not None:
        remark = f"{device.management_bytes:,} bytes: what the vendor's tool shows"
        rows.append((_LABELS["management_bytes"], format_bytes(device.management_bytes), remark))
    values = {
        "nominal_gigabytes": f"{device.nominal_gigabytes} GB" if device.nominal_gigabytes else "",
        "unified_memory": "yes" if device.unified_memory else "",
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else "",
        "gfx_target": device.gfx_target or "",
        "bandwidth_bytes_per_second": _unit(_giga(device.bandwidth_bytes_per_second), "GB/s"),
    }
    rows += [(_LABELS[name], value, "") for name, value in values.items() if value]
    rates = device.peak_flops
    rows += [(f"{dtype} rate", f"{_tera(rates[dtype])} TFLOP/s", "dense") for dtype in DTYPES if dtype in rates]
    if device.link:
        speed = _unit(_giga(device.link_bytes_per_second), "GB/s")
        rows.append((_LABELS["link"], speed or "yes", f"{device.link}, per direction" if speed else device.link))
    return rows


def detail_fields(device: Accelerator) -> list[tuple[str, object, str]]:
    """Every known value of a device as (field, exact value, source), one line of CSV each."""
    fields = {name: value for name, value in accelerator_fields(device).items() if name not in ("sources", "notes")}
    rates = fields.pop("peak_flops")
    fields["aliases"] = " ".join(device.aliases)
    rows = [(name, value, device.sources.get(name, "")) for name, value in fields.items() if value not in (None, "")]
    source = device.sources.get("peak_flops", "")
    return rows + [(f"peak_flops.{dtype}", rate, source) for dtype, rate in rates.items() if rate is not None]


def source_lines(device: Accelerator) -> list[tuple[str, str]]:
    """The sources, each with the values that it states."""
    fields: dict[str, list[str]] = {}
    for name, source in device.sources.items():
        fields.setdefault(source, []).append(_LABELS.get(name, name))
    return [(", ".join(names), source) for source, names in fields.items()]


def heading(device: Accelerator) -> str:
    """The device's name in full and what else it is called."""
    return " · ".join(filter(None, (device.title or device.name, device.name, ", ".join(_shortest(device.aliases)))))


def _shortest(aliases: Iterable[str], count: int = 3) -> list[str]:
    return sorted(aliases, key=len)[:count]


def _giga(bytes_per_second: int | None) -> str:
    return "" if bytes_per_second is None else f"{bytes_per_second / 10**9:,g}"


def _tera(flops: float | None) -> str:
    return "" if flops is None else f"{flops / 10**12:,g}"


def _unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if number else ""
