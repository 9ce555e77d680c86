"""Time of a call on a GPU or CPU, and what it ran on."""

from __future__ import annotations

import gc
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

REPETITIONS = 30
WARM_UP_CALLS = 3
SLOW_SECONDS = 0.02
"""A call slower than this is a baseline out of the race and is timed a few times only."""


def median_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median of the times of single calls after a warm-up; of CUDA events on a GPU.

    On a GPU the calls are queued behind a pause, so that the time of launching them is not counted. Their inputs should
    be larger than the L2 cache: nothing is flushed between calls.
    """
    for _ in range(WARM_UP_CALLS):
        call()
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    repetitions = REPETITIONS if time.perf_counter() - start < SLOW_SECONDS else 5
    if device.type != "cuda":
        return statistics.median(_host_seconds(call) for _ in range(repetitions))
    return _event_seconds(call, repetitions)


def _event_seconds(call: Callable[[], object], repetitions: int) -> float:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repetitions)]
    torch.cuda._sleep(50_000_000)
    for start, stop in zip(events[::2], events[1::2]):
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize()
    milliseconds = [float(start.elapsed_time(stop)) for start, stop in zip(events[::2], events[1::2])]
    return statistics.median(milliseconds) / 1e3


def _host_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def copy_bytes_per_second(device: torch.device, elements: int) -> float:
    """Bytes read and written per second by ``torch.clone`` of a bfloat16 tensor."""
    source = torch.zeros(elements, dtype=torch.bfloat16, device=device).normal_()
    seconds = median_seconds(lambda: source.clone(), device)
    return 2 * int(source.nbytes) / seconds


def release(device: torch.device) -> None:
    """Give back what the last case held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def versions(device: torch.device) -> dict[str, str]:
    """Versions of torch, Triton and the driver, and the name of the device."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton,
        "cuda": str(torch.version.cuda),
        "driver": _driver() if on_gpu else "none",
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU ({platform.machine()})",
    }


def _driver() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return "unknown"
    asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
    return answer.stdout.split("\n", maxsplit=1)[0].strip() or "unknown"
