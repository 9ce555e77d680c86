"""What a compression costs in quality and time: records of single samples, estimates over them, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from kvplan.core.frozen import dataclass

BASELINE = "none"
"""The method that everything is measured against: the model's own uncompressed cache."""

VERDICTS = ("pass", "fail", "inconclusive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One sample of one task under one method, as it is stored: a line of JSON.

    ``sample`` names what was asked, so that the same sample of two methods can be paired. ``values`` by task:

    ``perplexity``  ``nll`` and ``kld`` (nats, a list over the scored tokens; ``kld`` against the baseline's
                    distribution) and ``same_top`` (0 or 1 for each token)
    ``needle``      ``length_tokens``, ``depth_ratio``, ``num_keys`` and ``correct`` (0 or 1)
    ``qa``          ``correct`` (0 or 1)
    ``latency``     ``prefill_seconds`` and ``decode_seconds`` (a list, one per repeat; decode is per token)
    ``memory``      ``steady_bytes`` of the stored cache and ``peak_bytes`` of the device, with ``tokens``
    """

    task: str
    method: str
    sample: str
    values: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval, over ``count`` independent samples (blocks of text, questions, needles)."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a method must stay below; None: not asked for.

    ``perplexity_increase_ratio``  of the perplexity; ``accuracy_drop_ratio`` in points / 100
    ``needle_drop_ratio``          of the needle recall, in points / 100
    ``kld_mean``, ``top1_disagreement_ratio``  stricter gates on the next-token distribution, optional
    """

    perplexity_increase_ratio: float | None = None
    accuracy_drop_ratio: float | None = None
    needle_drop_ratio: float | None = None
    kld_mean: float | None = None
    top1_disagreement_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One threshold judged: ``pass`` where the interval lies below it, ``fail`` where above, else ``inconclusive``.

    ``needed_count`` is how many samples would decide it, where it is inconclusive and more samples can.
    """

    name: str
    threshold: float
    estimate: Estimate
    verdict: str
    needed_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodReport:
    """One method against the baseline. Ratios of time and memory are method / baseline; None: not measured.

    ``verdict`` is the worst of its gates (``fail``, then ``inconclusive``), and ``reason`` says which in words.
    """

    method: str
    perplexity_increase_ratio: Estimate | None = None
    kld_mean: Estimate | None = None
    kld_p99: float | None = None
    kld_max: float | None = None
    top1_agreement_ratio: Estimate | None = None
    needle_recall_ratio: Estimate | None = None
    needle_drop_ratio: Estimate | None = None
    accuracy_ratio: Estimate | None = None
    accuracy_drop_ratio: Estimate | None = None
    prefill_ratio: Estimate | None = None
    latency_ratio: Estimate | None = None
    memory_ratio: float | None = None
    steady_bytes: int | None = None
    peak_bytes: int | None = None
    needle_grid: Mapping[tuple[int, float], float] = field(default_factory=dict, hash=False)
    thresholds: Thresholds = field(default_factory=Thresholds)
    gates: tuple[Gate, ...] = ()
    verdict: str = "inconclusive"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All methods of one run on one model and device."""

    model: str
    device: str
    versions: Mapping[str, str] = field(hash=False)
    settings: Mapping[str, Any] = field(hash=False)
    baseline: MethodReport
    methods: tuple[MethodReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no method failed a gate."""
        return all(report.verdict != "fail" for report in self.methods)
