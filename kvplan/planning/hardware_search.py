"""The smallest hardware that fits: all devices that the engine runs on, the counts of a node, their placements.

Devices are searched one by one from the smallest count, and a device is done with the first count that fits: more of
it fits too, and is not what was asked. What cannot hold the weights is told apart before the engine is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import Allocation, Engine
from kvplan.core.errors import KvplanError, UnsupportedError
from kvplan.core.fit import FitRequest
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.core.request import SizeRequest
from kvplan.core.units import cdiv, format_bytes
from kvplan.core.weights import WeightFormat, weights_bytes
from kvplan.planning.fit_check import FitCheck, check_fit
from kvplan.planning.replication import Spread, spreads
from kvplan.planning.request import RequestWords, build_request

NODE_COUNTS = (1, 2, 4, 8)
"""Devices of one node."""

LEAST_CAPABILITIES: Mapping[str, tuple[int, int]] = {
    "vllm": (7, 5),  # docs/getting_started/installation/gpu.cuda.inc.md since 0.21
    "sglang": (7, 5),  # its default kernels, FlashInfer's, support SM75 and later (FlashInfer 0.6 and 0.7)
    "trtllm": (8, 0),  # nvidia.github.io/TensorRT-LLM/supported-hardware.html: Ampere and later
}
"""Engines whose overhead is known on CUDA devices alone, and the oldest compute capability that they run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchWords:
    """What is asked of every device. The parallel sizes and the accelerator of ``words`` are the search's to choose."""

    context: str | int
    words: RequestWords
    weight_format: WeightFormat
    memory_utilization: Fraction | None = None
    eager: bool = False
    usage: str = "serve"
    text_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Hardware that fits; ``check.request`` is what ``fit_model`` takes to tell everything about it."""

    accelerator: Accelerator
    count: int
    spread: Spread
    check: FitCheck

    @property
    def total_memory_bytes(self) -> int:
        """Of all devices together."""
        return self.count * self.accelerator.memory_bytes

    @property
    def capacity(self) -> Allocation:
        """What the engine makes of the memory that is left, on one replica."""
        assert self.check.capacity is not None
        return self.check.capacity

    @property
    def spare_bytes(self) -> int:
        """What the asked requests leave of the cache on the fullest rank."""
        return self.check.available_bytes - self.check.needed_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Hardware that does not fit, and why; ``spread`` is None where no placement had to be tried."""

    accelerator: Accelerator
    count: int
    spread: Spread | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """``found`` has each device once, in its smallest count, the smallest hardware first."""

    found: tuple[Found, ...]
    rejected: tuple[Rejected, ...]


def search_hardware(
    model: Model,
    asked: SearchWords,
    engine: Engine,
    accelerators: Iterable[Accelerator],
    counts: Sequence[int] = NODE_COUNTS,
) -> SearchResult:
    """All devices that fit, ranked: fewest devices, then least memory in all, then least bandwidth, then by name.

    Raises UsageError where the request makes no sense on any device, and UnsupportedError for engines without a budget.
    """
    if not hasattr(engine, "budget"):
        raise UnsupportedError(
            f"kvplan does not know what {engine.name} needs besides weights and cache", "use --engine vllm, for example"
        )
    found: list[Found] = []
    rejected: list[Rejected] = []
    for accelerator in accelerators:
        for answer in _answers(model, asked, engine, accelerator, sorted(counts)):
            if isinstance(answer, Found):
                found.append(answer)
                break
            rejected.append(answer)
    return SearchResult(found=tuple(sorted(found, key=_rank)), rejected=tuple(rejected))


def _rank(found: Found) -> tuple[int, int, float, str]:
    bandwidth = found.accelerator.bandwidth_bytes_per_second
    return found.count, found.total_memory_bytes, bandwidth or float("inf"), found.accelerator.name


def _answers(
    model: Model, asked: SearchWords, engine: Engine, accelerator: Accelerator, counts: Sequence[int]
) -> Iterator[Found | Rejected]:
    """Every placement of one device, counts ascending."""
    reason = why_not(accelerator, engine)
    if reason is not None:
        yield Rejected(accelerator=accelerator, count=counts[0], spread=None, reason=reason)
        return
    weights = _least_weights(model, asked)
    size: SizeRequest | None = None
    for count in counts:
        if weights > count * accelerator.memory_bytes:
            share = f"the weights alone take {format_bytes(cdiv(weights, count))} per device"
            reason = f"{share}, which has {format_bytes(accelerator.memory_bytes)}"
            yield Rejected(accelerator=accelerator, count=count, spread=None, reason=reason)
            continue
        try:
            size = size or _size_request(model, asked, engine, accelerator)
        except UnsupportedError as error:  # a cache dtype that the device does not have; no count mends it
            yield Rejected(accelerator=accelerator, count=count, spread=None, reason=error.message)
            return
        for spread in spreads(model.architecture, count):
            yield _answer(model, _fit_request(asked, accelerator, size, spread), engine, spread)


def why_not(accelerator: Accelerator, engine: Engine) -> str | None:
    """Why an engine's memory on this device is not known; None where it is."""
    least = LEAST_CAPABILITIES.get(engine.name)
    if least is None:
        return None
    if accelerator.vendor.lower() != "nvidia":
        return f"kvplan knows what {engine.name} needs besides weights and cache on NVIDIA devices alone"
    capability = accelerator.compute_capability
    if capability is None:
        return "its compute capability is not known"
    if capability < least:
        needs, has = (".".join(map(str, version)) for version in (least, capability))
        return f"{engine.name} needs compute capability {needs}, it has {has}"
    return None


def _least_weights(model: Model, asked: SearchWords) -> int:
    """What all devices together hold at least: the weights once; 0 where they are not known."""
    if model.weights.exact_bytes is not None:
        return 0 if asked.text_only else model.weights.exact_bytes
    parameters = model.architecture.parameters
    if parameters is None:
        return 0
    kept = replace(parameters, towers=0) if asked.text_only else parameters
    return weights_bytes(kept, asked.weight_format)


def _size_request(model: Model, asked: SearchWords, engine: Engine, accelerator: Accelerator) -> SizeRequest:
    """The device decides what ``auto`` stores; the placement does not."""
    settings = replace(asked.words.settings, accelerator=accelerator)
    return build_request(model, asked.context, replace(asked.words, settings=settings), engine)


def _fit_request(asked: SearchWords, accelerator: Accelerator, size: SizeRequest, spread: Spread) -> FitRequest:
    return FitRequest(
        size=replace(size, parallel=spread.parallel),
        accelerator=accelerator,
        weight_format=asked.weight_format,
        memory_utilization=asked.memory_utilization,
        expert_parallel=spread.expert_parallel,
        eager=asked.eager,
        usage=asked.usage,
        text_only=asked.text_only,
    )


def _answer(model: Model, request: FitRequest, engine: Engine, spread: Spread) -> Found | Rejected:
    accelerator, count = request.accelerator, request.num_devices
    try:
        check = check_fit(model, request, engine)
    except KvplanError as error:
        return Rejected(accelerator=accelerator, count=count, spread=spread, reason=error.message)
    if check.problem is not None:
        return Rejected(accelerator=accelerator, count=count, spread=spread, reason=check.problem)
    return Found(accelerator=accelerator, count=count, spread=spread, check=check)
