"""An accelerator as planning sees it: memory, speed, and what its kernels can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from kvplan.core.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device.

    ``memory_bytes``                what the runtime reports as total, which is below the figure on the box
    ``compute_capability``          (major, minor) of CUDA devices; None elsewhere
    ``bandwidth_bytes_per_second``  of the device's memory
    ``peak_flops``                  dense rates in FLOP/s by dtype (``bf16``, ``fp8``, ``int8``, ``fp4``); absent: none
    ``link_bytes_per_second``       to its neighbours in a node, per direction; None without a link
    ``sources``                     where each field was read, by the field's name
    """

    name: str
    vendor: str
    memory_bytes: int
    compute_capability: tuple[int, int] | None = None
    bandwidth_bytes_per_second: int | None = None
    peak_flops: Mapping[str, float] = field(default_factory=dict, hash=False)
    link_bytes_per_second: int | None = None
    link: str | None = None
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)
