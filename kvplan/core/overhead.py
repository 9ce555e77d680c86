"""What an engine holds on one rank besides weights and cache: activations, CUDA graphs, the runtime's own memory."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from kvplan.core.frozen import dataclass
from kvplan.core.units import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTensor:
    """One tensor that is alive at a phase's peak; ``shape`` is its size with the values put in."""

    name: str
    shape: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A moment of an engine's start at which memory peaks.

    ``measured`` says that a real start-up peaked in this phase with these very tensors; ``source`` names the code.
    """

    name: str
    tensors: tuple[LiveTensor, ...]
    source: str
    measured: bool = True

    @property
    def total_bytes(self) -> int:
        """All tensors together."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What one rank holds besides weights and cache, when the engine sizes the cache.

    ``activation_bytes``        peak of tensors during the profiling batch
    ``cuda_graph_bytes``        subtracted for CUDA graphs before the cache is sized
    ``non_torch_bytes``         the driver's context, libraries and communication buffers
    ``captured_graph_bytes``    CUDA graphs that are captured afterwards, outside the memory that the engine asked for
    ``certainty``               ``rule`` or ``estimate``
    ``expected_error_bytes``    of the three together, either way
    ``lines``                   the equations with the values put in, and their sources
    """

    activation_bytes: int
    cuda_graph_bytes: int = 0
    non_torch_bytes: int = 0
    captured_graph_bytes: int = 0
    certainty: str
    expected_error_bytes: int
    lines: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """What is not left for the cache."""
        return self.activation_bytes + self.cuda_graph_bytes + self.non_torch_bytes


def live_tensor(name: str, *dimensions: int, element_bytes: int = 2) -> LiveTensor:
    """A tensor of the given dimensions; elements of 16 bits unless told otherwise."""
    shape = " x ".join(f"{dimension:,}" for dimension in dimensions)
    return LiveTensor(name=name, shape=f"{shape} x {element_bytes} B", size_bytes=prod(dimensions) * element_bytes)


def live_bytes(name: str, size_bytes: int) -> LiveTensor:
    """A buffer of a fixed size."""
    return LiveTensor(name=name, shape=f"{size_bytes:,} B", size_bytes=size_bytes)


def highest_phase(phases: Iterable[Phase]) -> Phase:
    """The phase that decides the peak: they follow one another, and what one frees the next takes."""
    return max(phases, key=lambda phase: phase.total_bytes)


def phase_lines(phases: Iterable[Phase]) -> tuple[str, ...]:
    """A line for each phase, and one for each tensor of the highest."""
    phases = tuple(phases)
    highest = highest_phase(phases)
    others = [f"{phase.name}: {phase.total_bytes / GIB:.2f} GiB" for phase in phases if phase is not highest]
    return (
        f"peak of activations, {highest.name}: {highest.total_bytes / GIB:.2f} GiB ({highest.source})",
        *(f"  {tensor.name}: {tensor.shape} = {tensor.size_bytes:,} B" for tensor in highest.tensors),
        *((f"  other phases: {'; '.join(others)}",) if others else ()),
    )
