"""The packaged accelerators as a table: which of them, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kvplan.core.accelerator import Accelerator
from kvplan.core.errors import UnknownNameError
from kvplan.specs.accelerator import accelerator_names, load_accelerator


def packaged_accelerators() -> list[Accelerator]:
    """Every packaged device."""
    return [load_accelerator(name) for name in accelerator_names()]


def filter_accelerators(
    devices: Iterable[Accelerator], text: str | None, vendor: str | None, min_memory_bytes: int | None
) -> list[Accelerator]:
    """The devices that match everything asked. Raises UnknownNameError for an unknown vendor."""
    kept = list(devices)
    if vendor is not None:
        vendors = {device.vendor for device in kept}
        if vendor.lower() not in vendors:
            raise UnknownNameError("vendor", vendor, vendors)
        kept = [device for device in kept if device.vendor == vendor.lower()]
    if min_memory_bytes is not None:
        kept = [device for device in kept if device.memory_bytes >= min_memory_bytes]
    if text is not None:
        kept = [device for device in kept if _mentions(device, text.lower())]
    return kept


def sort_accelerators(devices: Iterable[Accelerator], key: str) -> list[Accelerator]:
    """By ``name``, or largest first by ``memory`` or ``bandwidth``; what is unknown comes last."""
    return sorted(devices, key=_SORT_KEYS[key])


_SORT_KEYS: dict[str, Callable[[Accelerator], Any]] = {
    "name": lambda device: device.name,
    "memory": lambda device: (-device.memory_bytes, device.name),
    "bandwidth": lambda device: (-(device.bandwidth_bytes_per_second or 0), device.name),
}


def _mentions(device: Accelerator, text: str) -> bool:
    words = (device.name, device.title, device.vendor, device.gfx_target or "", *device.aliases)
    return any(text in word.lower() for word in words)
