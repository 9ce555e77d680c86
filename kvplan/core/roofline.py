"""The decode roofline: how long one step takes, what bounds it, and from which context a smaller cache is faster.

Every figure is an estimate. A step reads the weights and the cache of all its sequences once and computes with both;
projections and attention run one after the other, and each is bound by memory or by compute. Communication between
ranks is not counted. Where the bandwidth, the peak rate or the kernel's efficiency is unknown, so is the answer: None.
"""

from __future__ import annotations

import math
from fractions import Fraction

from kvplan.core.frozen import dataclass
from kvplan.core.model import Parameters
from kvplan.core.weights import WeightFormat, part_bits

READ_EFFICIENCY = 0.90
"""Share of peak bandwidth that decode reaches with a 16-bit cache: the slope of Llama-3.1-8B on H100 in vLLM's post of
2026-04-22 on FP8 caches, against 3350 GB/s. Taken for weights as well; ``kvplan/advice/speed.yaml`` has the rest."""

COMPUTE_EFFICIENCY = 0.5
"""Share of the dense peak that prefill reaches: 0.51 for Llama-3.1-8B and 0.35 for gpt-oss-20b, by the median times to
first token in the same post (prompts of 20,000 tokens, H100, concurrency 8)."""

DENSE_LAYER_SECONDS, EXPERT_LAYER_SECONDS = 50e-6, 115e-6
"""What a layer takes in a step besides reading: 46 us (H100) and 55 us (B200) for Llama-3.1-8B, 117 us (H100) for
gpt-oss-20b, from the same post's intercepts less the weights at ``READ_EFFICIENCY``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """One decode step of one rank.

    ``weights_bytes``      resident on the rank; ``expert_bytes`` of them are routed experts, and ``idle_bytes`` are not
                           read in a decode step (the input embedding of untied models, vision towers)
    ``num_experts``        of a layer, of which a token visits ``experts_per_token``; 0 for dense models
    ``kv_bytes``           of the cache read in the step, all sequences together
    ``active_parameters``  that one token uses on this rank
    ``attention_flops``    of one token on this rank (``kvplan/core/attention_flops.py``)
    ``batch``              sequences that take part in the step
    ``bandwidth_bytes_per_second``, ``peak_flops``  of the accelerator, in the dtype that it computes in; None: unknown
    ``kv_efficiency_ratio``  share of the bandwidth at which the cache is read; None for formats that are decoded first,
                           which buy capacity, not speed
    ``fixed_seconds``      what the step takes besides, such as layers * ``DENSE_LAYER_SECONDS``
    """

    weights_bytes: int
    kv_bytes: int
    active_parameters: int
    attention_flops: int
    batch: int
    bandwidth_bytes_per_second: int | None
    peak_flops: float | None
    expert_bytes: int = 0
    idle_bytes: int = 0
    num_experts: int = 0
    experts_per_token: int = 0
    kv_efficiency_ratio: float | None = READ_EFFICIENCY
    fixed_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEstimate:
    """The times of one step, in seconds: reading and computing, of the projections and of attention. None: unknown."""

    batch: int
    weights_seconds: float | None
    kv_seconds: float | None
    linear_seconds: float | None
    attention_seconds: float | None
    fixed_seconds: float

    @property
    def memory_seconds(self) -> float | None:
        """Reading weights and cache."""
        return _sum(self.weights_seconds, self.kv_seconds)

    @property
    def compute_seconds(self) -> float | None:
        """Computing with them."""
        return _sum(self.linear_seconds, self.attention_seconds)

    @property
    def step_seconds(self) -> float | None:
        """Projections, then attention, each as long as the slower of reading and computing, and what is fixed."""
        linear = _slower(self.weights_seconds, self.linear_seconds)
        return _sum(linear, _slower(self.kv_seconds, self.attention_seconds), self.fixed_seconds)

    @property
    def bound(self) -> str | None:
        """``memory`` or ``compute``, whichever takes longer."""
        memory, compute = self.memory_seconds, self.compute_seconds
        if memory is None or compute is None:
            return None
        return "memory" if memory >= compute else "compute"

    @property
    def tokens_per_second(self) -> float | None:
        """Of all sequences together."""
        return None if self.step_seconds is None else self.batch / self.step_seconds

    @property
    def kv_share_ratio(self) -> float | None:
        """Share of the step that reading the cache takes."""
        step = self.step_seconds
        return None if step is None or self.kv_seconds is None else self.kv_seconds / step


def estimate_step(step: DecodeStep) -> StepEstimate:
    """The roofline of a step."""
    bandwidth, peak = step.bandwidth_bytes_per_second, step.peak_flops
    flops_per_second = None if peak is None else COMPUTE_EFFICIENCY * peak
    return StepEstimate(
        batch=step.batch,
        weights_seconds=read_seconds(weights_read_bytes(step), bandwidth, READ_EFFICIENCY),
        kv_seconds=read_seconds(step.kv_bytes, bandwidth, step.kv_efficiency_ratio),
        linear_seconds=None if flops_per_second is None else 2 * step.batch * step.active_parameters / flops_per_second,
        attention_seconds=None if flops_per_second is None else step.batch * step.attention_flops / flops_per_second,
        fixed_seconds=step.fixed_seconds,
    )


def weights_read_bytes(step: DecodeStep) -> float:
    """Bytes of weights that a step reads: all that is not idle, and of the experts those that a token visits."""
    visited = visited_experts_ratio(step.num_experts, step.experts_per_token, step.batch)
    return step.weights_bytes - step.idle_bytes - step.expert_bytes * (1 - visited)


def visited_experts_ratio(num_experts: int, experts_per_token: int, batch: int) -> float:
    """Expected share of distinct experts that ``batch`` tokens visit, 1 - (1 - k/E)^batch: routing taken as even."""
    return 1 - (1 - experts_per_token / num_experts) ** batch if num_experts else 1.0


def expert_bytes(parameters: Parameters, weight_format: WeightFormat) -> int:
    """Bytes of all routed experts in a weight format, rounded up to a whole byte."""
    return _part_bytes(parameters.experts, part_bits(weight_format, tied=not parameters.output_head)["experts"])


def idle_bytes(parameters: Parameters, weight_format: WeightFormat) -> int:
    """Bytes that no decode step reads: towers, and the input embedding unless it is the output head too."""
    tied = not parameters.output_head
    bits = part_bits(weight_format, tied)
    embedding = 0 if tied else _part_bytes(parameters.embedding, bits["embedding"])
    return embedding + _part_bytes(parameters.towers, bits["towers"])


def computing_parameters(parameters: Parameters) -> int:
    """Parameters that a text token computes with: the active ones without towers, and without a mere lookup table."""
    used = (parameters.total if parameters.active is None else parameters.active) - parameters.towers
    return used - parameters.embedding if parameters.output_head else used


def read_seconds(num_bytes: float, bandwidth: int | None, efficiency_ratio: float | None) -> float | None:
    """Time to read bytes at a share of the bandwidth; None where either is unknown."""
    return None if bandwidth is None or efficiency_ratio is None else num_bytes / (bandwidth * efficiency_ratio)


def prefill_seconds(
    prompt_tokens: int, active_parameters: int, attention_flops: int, peak_flops: float | None
) -> float | None:
    """Time to compute a prompt: 2 FLOPs per active parameter and token, and attention's of the whole prompt."""
    flops = 2 * active_parameters * prompt_tokens + attention_flops
    return None if peak_flops is None else flops / (COMPUTE_EFFICIENCY * peak_flops)


def prefill_share_ratio(prefill: float | None, output_tokens: int, step: StepEstimate) -> float | None:
    """Share of the accelerator's time for one request that its prompt takes; a step serves ``batch`` requests."""
    if prefill is None or step.step_seconds is None:
        return None
    decode = output_tokens * step.step_seconds / step.batch
    return prefill / (prefill + decode) if prefill + decode else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReading:
    """What one more token of context adds to a step, and the share of the bandwidth at which it is read."""

    bytes_per_token: Fraction | int
    efficiency_ratio: float | None = READ_EFFICIENCY

    def slope_seconds(self, bandwidth: int | None) -> float | None:
        """Seconds that a step takes longer for each token of one sequence's context."""
        return read_seconds(float(self.bytes_per_token), bandwidth, self.efficiency_ratio)


def break_even_tokens(
    native: CacheReading, smaller: CacheReading, bandwidth: int | None, overhead_seconds: float, batch: int = 1
) -> float | None:
    """The context from which a smaller cache also decodes faster; infinity where it never does, None where unknown.

    ``overhead_seconds`` is what coding the new tokens adds to a step, whatever the context: the gap of the intercepts,
    divided by the gap of the slopes of all sequences.
    """
    slopes = native.slope_seconds(bandwidth), smaller.slope_seconds(bandwidth)
    if slopes[0] is None or slopes[1] is None:
        return None
    gain = batch * (slopes[0] - slopes[1])
    return overhead_seconds / gain if gain > 0 else math.inf


def _part_bytes(parameters: int, bits: Fraction) -> int:
    return math.ceil(parameters * bits / 8)


def _sum(*times: float | None) -> float | None:
    known = [time for time in times if time is not None]
    return sum(known) if len(known) == len(times) else None


def _slower(memory: float | None, compute: float | None) -> float | None:
    return None if memory is None or compute is None else max(memory, compute)
