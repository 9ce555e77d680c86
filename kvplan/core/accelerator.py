"""An accelerator as planning sees it: memory, speed, and what its kernels can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from kvplan.core.frozen import dataclass
from kvplan.core.units import GIB

READINGS: Mapping[str, str] = {
    "runtime": "total that the device's runtime reports to a program",
    "management": "total that nvidia-smi shows; the CUDA runtime reports 0.3 to 1.7% less",
    "specification": "size on the data sheet; no reading of a real device was found",
    "rule": "share of the machine's memory that its operating system lets the GPU use",
    "measured": "read on this machine",
    "given": "stated by the user",
}
"""How ``memory_bytes`` is known, the best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device.

    ``title``                       the name in full; ``name`` without one
    ``memory_bytes``                what the runtime reports as total, which is below the figure on the box
    ``memory_reading``              how that is known, a key of ``READINGS``
    ``management_bytes``            what the vendor's management tool (nvidia-smi) shows as total
    ``nominal_gigabytes``           the figure on the box, in units that only the vendor knows
    ``unified_memory``              whether the memory is the host's too
    ``compute_capability``          (major, minor) of CUDA devices; None elsewhere
    ``gfx_target``                  LLVM target of AMD devices, such as ``gfx942``; None elsewhere
    ``bandwidth_bytes_per_second``  of the device's memory
    ``peak_flops``                  dense rates in FLOP/s by dtype (``bf16``, ``fp8``, ``int8``, ``fp4``); absent: none
                                    known
    ``link_bytes_per_second``       to its neighbours in a node, per direction; None without a link
    ``sources``                     where each field was read, by the field's name
    ``notes``                       what a reader must know, such as where sources differ
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
    title: str = ""
    memory_reading: str = "given"
    management_bytes: int | None = None
    nominal_gigabytes: int | None = None
    unified_memory: bool = False
    gfx_target: str | None = None
    notes: tuple[str, ...] = ()


def apple_gpu_bytes(total_bytes: int) -> int:
    """The part of an Apple machine's memory that its GPU may use, unless ``iogpu.wired_limit_mb`` says otherwise.

    Three quarters from 36 GiB up, two thirds below (changh95/vram-calculator, ``src/lib/data/hardware.ts``). Metal
    itself reports 154,618,822,656 bytes on a machine with 192 GiB (apache/tvm pull request 16398).
    """
    return total_bytes * 3 // 4 if total_bytes >= 36 * GIB else total_bytes * 2 // 3
