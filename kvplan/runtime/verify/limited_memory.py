"""A memory that is really limited, on a CPU: a process of its own whose address space may not grow beyond a limit.

Linux keeps the limit (``RLIMIT_AS``), so the allocation beyond it fails as on a full device, and nothing else feels
it. Run as ``python -m kvplan.runtime.verify.limited_memory`` it reads a task from stdin and prints what it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kvplan.core.errors import UnsupportedError
from kvplan.core.search import largest
from kvplan.core.units import round_up
from kvplan.runtime.verify.device_memory import holds_tensors
from kvplan.runtime.verify.stored_tensors import TensorShape, flat_tensor

PAGE_BYTES = 4096
HEADER_BYTES = 160
"""What glibc adds to a block that it maps for torch: alignment of 64, headers and room to align."""

_MAPPED_BYTES = 1 << 17
"""glibc maps larger blocks one by one, if it is told not to raise the bound as it goes."""


def mapped_bytes(size_bytes: int) -> int:
    """Address space that a large tensor takes."""
    return round_up(size_bytes + HEADER_BYTES, PAGE_BYTES)


def largest_in_limit(
    unit: Sequence[TensorShape], beside_bytes: int, limit_bytes: int, most: int, guess: int
) -> tuple[int, bool]:
    """The most units that are allocated beside a block within the limit, and whether memory is usable after failing.

    Raises UnsupportedError where the process cannot be limited.
    """
    if sys.platform != "linux":
        raise UnsupportedError("only Linux limits the memory of a process", "look for the frontier on a CUDA GPU")
    task = {
        "unit": [[list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for tensor in unit],
        "beside_bytes": beside_bytes,
        "limit_bytes": limit_bytes,
        "most": most,
        "guess": guess,
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(_MAPPED_BYTES)},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnsupportedError(f"the limited process failed: {last}", "look for the frontier on a CUDA GPU")
    found = json.loads(done.stdout)
    return int(found["units"]), bool(found["usable"])


def _run(task: dict[str, object]) -> dict[str, object]:
    """In the process itself: limit it, look for the most, and see that it still works."""
    import resource

    tensors: list[tuple[list[int], str]] = task["unit"]  # type: ignore[assignment]
    unit = [TensorShape(name="", shape=tuple(shape), dtype=getattr(torch, dtype)) for shape, dtype in tensors]
    beside, limit, most, guess = (int(str(task[name])) for name in ("beside_bytes", "limit_bytes", "most", "guess"))
    cpu = torch.device("cpu")

    def holds(units: int) -> bool:
        """Whether so many units are allocated."""
        return holds_tensors([flat_tensor("beside", beside), *(tensor.repeat(units) for tensor in unit)], cpu)

    holds(1)  # grow the heap for the objects themselves before the limit is drawn
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + limit, hard))
    units = largest(holds, most, guess)
    return {"units": units, "usable": holds(min(units, 1))}


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(_run(json.load(sys.stdin))))
