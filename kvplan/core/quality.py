"""What compression does to quality: published figures, acceptance gates, and measured speed of kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kvplan.core.frozen import dataclass

NEARBY_TASKS = {
    "chat": ("chat", "batch", "code", "reasoning", "retrieval"),
    "batch": ("batch", "chat", "code", "reasoning", "retrieval"),
    "code": ("code", "reasoning", "retrieval", "chat", "batch"),
    "reasoning": ("reasoning", "code", "retrieval", "chat", "batch"),
    "retrieval": ("retrieval", "reasoning", "code", "chat", "batch"),
}
"""Tasks whose figures stand in for a task without any, nearest first: hard tasks before easy ones that hide losses."""

EASY_TASKS = ("chat", "batch")
"""Short answers and knowledge: GSM8K was flat where AIME25 lost 40 points (GPT-OSS-120B with FP4 caches, SGLang)."""

LONG_CONTEXT = 65536
"""Above this many tokens a needle gate is asked for, whatever the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """One published figure.

    ``names``       cache formats or policies it is about; ``recipe`` is how they were used
    ``family``      of the model it was measured on (``llama``, ``qwen``)
    ``baseline``, ``compressed``  scores of ``metric``; None where only the change was published
    ``higher``      whether more of the metric is better
    ``loss_ratio``  change for the worse relative to the baseline: 0.02 is 2% worse, negative is better. None where
                    the source gives words alone, which ``note`` has
    ``outdated``    of a release that has since been mended: shown, never chosen
    ``measured``    by the user, on the model that is asked about, or on another one that is to stand for it (then of no
                    ``family``): goes before everything published
    ``recalled``    taken from memory of the source and not read again: never the only support of an advice
    """

    names: tuple[str, ...]
    model: str
    family: str
    metric: str
    task: str
    source: str
    higher: bool = True
    loss_ratio: float | None = None
    baseline: float | None = None
    compressed: float | None = None
    engine: str = ""
    recipe: str = ""
    context_tokens: int | None = None
    note: str = ""
    vendor_claim: bool = False
    outdated: bool = False
    recalled: bool = False
    measured: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMatch:
    """The published figure nearest to a case of a ``task``, and how near it is: the same task, the same family."""

    row: QualityRow
    task: str
    same_task: bool
    same_family: bool

    @property
    def shown(self) -> str:
        """The figure in one line: change, metric, model, and what it was not measured on."""
        row = self.row
        change = "" if row.loss_ratio is None else f" {self._change}"
        scores = "" if row.baseline is None else f" ({row.baseline:g} to {row.compressed:g})"
        words = f": {row.note}" if row.note else ""
        other = "" if self.same_family or row.family == "any" else ", another model"
        task = "" if self.same_task else f", a {row.task} task"
        if row.task in EASY_TASKS and self.task not in EASY_TASKS:
            task += ", which hides what hard tasks lose"
        return f"{row.metric}{change}{scores} on {row.model}{other}{task}{words}"

    @property
    def brief(self) -> str:
        """Change, metric and model alone."""
        change = "words alone" if self.row.loss_ratio is None else self._change
        here = "measured" if self.same_family else f"measured on {self.row.model}"
        return f"{change} {self.row.metric}, {here if self.row.measured else self.row.model}"

    @property
    def _change(self) -> str:
        """The metric's change, whichever way is better."""
        loss = self.row.loss_ratio or 0.0
        return f"{100 * (-loss if self.row.higher else loss):+.2g}%".replace("+0%", "0%").replace("-0%", "0%")


def quality_for(rows: Iterable[QualityRow], name: str, task: str, family: str, engine: str = "") -> QualityMatch | None:
    """The figure of a format or policy most like the case; among equals the largest loss. None: nothing published.

    Measured figures go before published ones, numbers before words, figures that were read before recalled ones,
    independent ones before vendors', then the nearest task, the engine, the family, the loss.
    """
    found = [row for row in rows if name in row.names and not row.outdated]
    if not found:
        return None
    nearby = NEARBY_TASKS[task]

    def distance(row: QualityRow) -> tuple[float, ...]:
        """The less the nearer: measured figures first, then those of a like task, this engine and this family."""
        worth = (not row.measured, row.recalled, row.loss_ratio is None, row.vendor_claim)
        return (*worth, nearby.index(row.task), row.engine != engine, row.family != family, -(row.loss_ratio or 0.0))

    row = min(found, key=distance)
    return QualityMatch(row=row, task=task, same_task=row.task == task, same_family=row.family == family)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a compressed cache must pass before it is used, as shares of the uncompressed one's figures.

    ``perplexity_increase_ratio`` and ``accuracy_drop_ratio`` (points / 100) are the most that is accepted;
    ``needle_drop_ratio`` the most of retrieval that may be lost (None: no needle test is asked for).
    """

    id: str
    quality: str
    perplexity_increase_ratio: float
    accuracy_drop_ratio: float
    source: str
    needle_drop_ratio: float | None = None

    @property
    def shown(self) -> str:
        """The gate in one line."""
        limits = {
            "perplexity increase": self.perplexity_increase_ratio,
            "accuracy drop": self.accuracy_drop_ratio,
            "needle drop": self.needle_drop_ratio,
        }
        return ", ".join(f"{name} < {100 * limit:g}%" for name, limit in limits.items() if limit is not None)


def gate_for(gates: Sequence[Gate], kind: str, quality: str, context_tokens: int) -> Gate:
    """The gate of ``fp8``, ``int8``, ``int4`` or ``prune`` at a quality; short contexts without pruning need no needle.

    Raises KeyError for a kind or quality that has no gate.
    """
    found = {(gate.id, gate.quality): gate for gate in gates}[kind, quality]
    needed = kind == "prune" or context_tokens > LONG_CONTEXT
    return found if needed else replace(found, needle_drop_ratio=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRow:
    """How fast an engine reads a cache format; a field that is None holds for all.

    ``efficiency_ratio``        share of the peak bandwidth at which decode reads the cache; None where the format is
                                decoded first or nothing was published: it buys capacity, not speed
    ``layer_overhead_seconds``  what coding new tokens adds to a step for every layer stored so
    ``throughput_ratio``        measured end to end against 16 bits, lowest and highest
    """

    names: tuple[str, ...]
    context: str
    source: str
    engine: str | None = None
    head_dim: int | None = None
    capability_major: int | None = None
    efficiency_ratio: float | None = None
    layer_overhead_seconds: float | None = None
    throughput_ratio: tuple[float, float] | None = None


def speed_for(
    rows: Iterable[SpeedRow], name: str, engine: str, head_dim: int | None, compute_capability: tuple[int, int] | None
) -> SpeedRow | None:
    """The most specific row of a format that holds here: by head width, then device, then engine. None: unknown."""
    major = compute_capability[0] if compute_capability else None
    asked = (head_dim, major, engine)

    def scopes(row: SpeedRow) -> tuple[int | str | None, ...]:
        """What a row is restricted to, None where it holds for all."""
        return (row.head_dim, row.capability_major, row.engine)

    fitting = [
        row
        for row in rows
        if name in row.names and all(scope in (None, value) for scope, value in zip(scopes(row), asked))
    ]
    return max(fitting, key=lambda row: [scope is not None for scope in scopes(row)], default=None)
