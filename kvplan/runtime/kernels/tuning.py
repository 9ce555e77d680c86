"""Picks the fastest of a few launch configurations, once for each shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

REPETITIONS = 5


@dataclass(frozen=True, order=True)
class Config:
    """Tokens per block, warps per program, depth of the software pipeline, programs wanted per multiprocessor."""

    block: int
    warps: int
    stages: int
    waves: int


_best: dict[Hashable, Config] = {}


def fastest(key: Hashable, configs: Sequence[Config], launch: Callable[[Config], object]) -> Config:
    """The config that ``launch`` runs fastest with, remembered by ``key``; the first where nothing can be timed.

    A config that needs more shared memory or registers than the GPU has is passed over.
    """
    if len(configs) == 1 or not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing():
        return _best.get(key, configs[0])
    if key not in _best:
        _best[key] = min(configs, key=lambda config: seconds(launch, config))
    return _best[key]


def seconds(launch: Callable[[Config], object], config: Config) -> float:
    """Best of a few timed launches; infinite where the config does not run."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    try:
        launch(config)
    except (OutOfResources, PTXASError, CompilationError):
        return float("inf")
    times: list[float] = []
    for _ in range(REPETITIONS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        launch(config)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return min(times)
