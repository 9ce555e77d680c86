"""The device that checks run on: which one, how much memory it has and has free, and the versions around it."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import kvplan
from kvplan.core.errors import UnknownNameError, UnsupportedError
from kvplan.core.units import MIB
from kvplan.core.verification import DeviceFacts
from kvplan.runtime.verify.host_memory import host_memory

DEVICE_WORDS = ("auto", "cuda", "cpu", "mps")
"""What ``--device`` takes, besides ``cuda:1`` and the like."""

MARGIN_BYTES = 256 * MIB
"""The least that is left free on a device; 5 % where that is more."""

Progress = Callable[[str], None]
"""Is told, in a few words, what is being done."""


def silent(words: str) -> None:
    """Progress that nobody reads."""


def choose_device(word: str = "auto") -> torch.device:
    """The device that a word names; ``auto`` is a CUDA GPU, else Apple's, else the CPU.

    Raises UnknownNameError for other words and UnsupportedError where torch sees no such device.
    """
    kind, _, index = word.strip().lower().partition(":")
    if kind not in DEVICE_WORDS or (index and not (kind == "cuda" and index.isdecimal())):
        raise UnknownNameError("device", word, DEVICE_WORDS)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        return _cuda_device(int(index) if index else None)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UnsupportedError(f"torch {torch.__version__} sees no Apple GPU here", "--device cpu runs anywhere")
    return torch.device(kind)


def _cuda_device(index: int | None) -> torch.device:
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else ", which is built without CUDA,"
        raise UnsupportedError(f"torch {torch.__version__}{built} sees no GPU here", "--device cpu runs anywhere")
    count = torch.cuda.device_count()
    chosen = torch.cuda.current_device() if index is None else index
    if chosen >= count:
        raise UnsupportedError(f"there is no GPU {chosen}", f"GPUs 0 to {count - 1} are here")
    return torch.device("cuda", chosen)


def total_and_free(device: torch.device) -> tuple[int, int]:
    """Bytes of memory of the device, and those that are free now. Raises UnsupportedError where nobody says."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    if device.type == "mps":
        total = int(torch.mps.recommended_max_memory())
        return total, max(0, total - int(torch.mps.driver_allocated_memory()))
    return host_memory()


def margin_bytes(free_bytes: int) -> int:
    """What checks leave free: 256 MiB, or 5 % of what is free where that is more."""
    return max(MARGIN_BYTES, free_bytes // 20)


def release(device: torch.device) -> None:
    """Give memory that no tensor holds back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def device_facts(device: torch.device) -> DeviceFacts:
    """Name, memory, driver and compute capability, as they are now."""
    total, free = total_and_free(device)
    if device.type != "cuda":
        return DeviceFacts(name=_processor_name(), kind=device.type, total_bytes=total, free_bytes=free)
    properties = torch.cuda.get_device_properties(device)
    return DeviceFacts(
        name=properties.name,
        kind="cuda",
        total_bytes=total,
        free_bytes=free,
        driver=_driver_version(),
        compute_capability=(properties.major, properties.minor),
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on; transformers only where something has imported it."""
    found = {"kvplan": kvplan.__version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if torch.version.hip:
        found["rocm"] = torch.version.hip
    if "transformers" in sys.modules:
        found["transformers"] = sys.modules["transformers"].__version__
    return found


def _processor_name() -> str:
    """The processor's name as Linux tells it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _driver_version() -> str | None:
    """NVIDIA's driver, by its own tool; None where that is not installed."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(told.split()), None)
