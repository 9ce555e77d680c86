"""``--gpu auto``: the accelerators of this machine, matched by name onto the packaged ones, with measured memory.

Asked in this order: the CUDA driver (it answers what programs will see, and heeds ``CUDA_VISIBLE_DEVICES``), NVML,
nvidia-smi, rocm-smi, macOS, and last the machine's own memory. Nothing is imported or run that is not there.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from kvplan.core.accelerator import Accelerator, apple_gpu_bytes
from kvplan.core.errors import UsageError
from kvplan.core.units import KIB, MIB
from kvplan.specs.accelerator import find_accelerator

TIMEOUT_SECONDS = 20
"""nvidia-smi takes several seconds on a machine of eight cards whose driver is not kept loaded."""

CUDA_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
CUDA_ERROR_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
_MEMINFO = Path("/proc/meminfo")

Devices = tuple[Accelerator, ...]


def detect() -> Devices:
    """Every accelerator of the first kind that is found; the host's memory where there is none.

    Raises UsageError where not even that can be read.
    """
    for probe in (detect_nvidia, detect_amd, detect_apple, detect_host):
        devices = probe()
        if devices:
            return devices
    raise UsageError("no accelerator was found on this machine", "name one; kvplan accelerators list shows all")


def detect_nvidia() -> Devices:
    """By the CUDA driver; where that is missing or broken by NVML, then by nvidia-smi."""
    by_driver = detect_cuda(load_cuda())
    return by_driver if by_driver is not None else detect_nvml() or detect_nvidia_smi()


def load_cuda() -> Any:
    """The CUDA driver's library; None without one."""
    for name in CUDA_LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def detect_cuda(cuda: Any) -> Devices | None:
    """What the CUDA driver lets this process see, without creating a context; None if the driver does not answer."""
    if cuda is None:
        return None
    status = cuda.cuInit(0)
    count = ctypes.c_int()
    if status == CUDA_ERROR_NO_DEVICE:
        return ()
    if status != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None
    devices = [_cuda_device(cuda, index) for index in range(count.value)]
    return None if None in devices else tuple(device for device in devices if device is not None)


def _cuda_device(cuda: Any, index: int) -> Accelerator | None:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    total, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    answers = (
        cuda.cuDeviceGet(ctypes.byref(handle), index),
        cuda.cuDeviceGetName(name, len(name), handle),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(total), handle),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle),
    )
    if any(answers):
        return None
    capability = (major.value, minor.value)
    return _measured(name.value.decode(), "nvidia", total.value, "the CUDA driver on this machine", capability)


def detect_nvml() -> Devices:
    """By the package ``pynvml`` (``nvidia-ml-py``), if it is installed and finds a driver."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old package of that name deprecates itself
            nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or its own NVMLError: no library, no driver
        return ()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(_nvml_device(nvml, handle) for handle in handles)
    except Exception:  # NVMLError of a device that is lost or that this user may not see
        return ()
    finally:
        nvml.nvmlShutdown()


def _nvml_device(nvml: Any, handle: Any) -> Accelerator:
    name = nvml.nvmlDeviceGetName(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    total = nvml.nvmlDeviceGetMemoryInfo(handle).total
    return _managed(name.decode() if isinstance(name, bytes) else name, total, "NVML on this machine", (major, minor))


def detect_nvidia_smi() -> Devices:
    """By the command nvidia-smi, if there is one."""
    lines = _run("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
    devices = []
    for line in lines.splitlines():
        name, _, rest = line.partition(",")
        memory, _, capability = (field.strip() for field in rest.partition(","))
        if not memory.isdigit():
            continue
        major, dot, minor = capability.partition(".")
        known = (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None
        devices.append(_managed(name.strip(), int(memory) * MIB, "nvidia-smi on this machine", known))
    return tuple(devices)


def detect_amd() -> Devices:
    """By the command rocm-smi, if there is one."""
    text = _run("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    try:
        cards = json.loads(text) if text else {}
    except ValueError:
        return ()
    devices = []
    for label, card in cards.items() if isinstance(cards, dict) else ():
        fields = {key.lower(): str(value) for key, value in card.items()} if isinstance(card, dict) else {}
        total = fields.get("vram total memory (b)", "")
        if label.startswith("card") and total.isdigit():
            name = fields.get("card series") or fields.get("card model") or "AMD GPU"
            device = _measured(name, "amd", int(total), "rocm-smi on this machine", None)
            devices.append(replace(device, gfx_target=fields.get("gfx version", device.gfx_target)))
    return tuple(devices)


def detect_apple() -> Devices:
    """The chip of an Apple machine, with what macOS lets its GPU use: the wired limit, if one is set."""
    if platform.system() != "Darwin":
        return ()
    name, total, limit = (_sysctl(key) for key in ("machdep.cpu.brand_string", "hw.memsize", "iogpu.wired_limit_mb"))
    if not name.startswith("Apple") or not total.isdigit():  # an Intel Mac
        return ()
    if limit.isdigit() and int(limit) > 0:
        usable, source = int(limit) * MIB, "iogpu.wired_limit_mb on this machine"
    else:
        usable, source = apple_gpu_bytes(int(total)), "default share of hw.memsize on this machine"
    return (replace(_measured(name, "apple", usable, source, None), unified_memory=True),)


def detect_host() -> Devices:
    """This machine's own memory, for engines that run on the CPU."""
    total = _host_bytes()
    if total is None:
        return ()
    sources = {"memory_bytes": "total memory of this machine"}
    return (
        Accelerator(
            name="cpu",
            title=f"CPU ({platform.machine() or 'unknown architecture'})",
            vendor="host",
            memory_bytes=total,
            memory_reading="measured",
            unified_memory=True,
            sources=sources,
        ),
    )


def _host_bytes() -> int | None:
    try:
        for line in _MEMINFO.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return None


def _measured(
    name: str, vendor: str, memory_bytes: int, source: str, capability: tuple[int, int] | None
) -> Accelerator:
    """The packaged device of this name, or an otherwise unknown one, with the memory that was read."""
    known = find_accelerator(name) or Accelerator(name=name, vendor=vendor, memory_bytes=memory_bytes)
    sources = {field: where for field, where in known.sources.items() if field != "management_bytes"}
    read = {"memory_bytes": source, **({"compute_capability": source} if capability else {})}
    return replace(
        known,
        memory_bytes=memory_bytes,
        memory_reading="measured",
        management_bytes=None,
        compute_capability=capability or known.compute_capability,
        sources={**sources, **read},
    )


def _managed(name: str, total_bytes: int, source: str, capability: tuple[int, int] | None) -> Accelerator:
    """A device of which the management total is read, which is more than the runtime gives to programs.

    The packaged runtime total stands where it belongs to this very management total, to the MiB.
    """
    known = find_accelerator(name)
    device = replace(_measured(name, "nvidia", total_bytes, source, capability), management_bytes=total_bytes)
    device = replace(device, sources={**device.sources, "management_bytes": source})
    packaged = known.management_bytes if known is not None else None
    if known is None or packaged is None or known.memory_reading != "runtime" or abs(packaged - total_bytes) >= MIB:
        return replace(device, memory_reading="management")
    sources = {**device.sources, "memory_bytes": known.sources["memory_bytes"]}
    return replace(device, memory_bytes=known.memory_bytes, memory_reading="runtime", sources=sources)


def _sysctl(name: str) -> str:
    return _run("sysctl", "-n", name).strip()


def _run(*command: str) -> str:
    """What a command prints; nothing where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout
