"""Advice on compression: a case, conditions on it, and the rules and the classic matrix that they decide.

The rules themselves are data (``kvplan/advice/``). Every condition shows the value it was judged by; a value that is
not known meets none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from kvplan.core.frozen import dataclass
from kvplan.core.units import format_tokens

TASKS = ("chat", "reasoning", "retrieval", "code", "batch")
QUALITIES = ("strict", "normal", "relaxed")
ATTENTIONS = ("mha", "gqa", "mqa", "mla", "hybrid", "state", "none")

MEDIUM_PRESSURE, HIGH_PRESSURE = 0.7, 1.0
"""Cache needed over cache pool: below 0.7 pressure is low, to 1.0 medium, and high where the requests do not fit."""

LARGE_SHARE = 0.30
"""Share of the accelerator's memory above which a cache counts as medium pressure where the pool is not known."""

HIGH_CONCURRENCY = 16
"""Requests at once that the classic matrix calls high; it gives no number, and at 8 vLLM's authors say "moderately
heavy" (post of 2026-04-22)."""

_FP8_GFX = ("gfx94", "gfx95", "gfx12")
"""AMD targets whose matrix cores take FP8: MI300 and MI350 series, RDNA4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What advice depends on; None where it is not known.

    ``context_tokens``, ``concurrency``  what was asked for
    ``pressure_ratio``        cache needed over cache pool with the native dtype; ``pressure_8bit_ratio`` with 8 bits
    ``kv_share_ratio``        cache needed over the memory of the accelerators
    ``bound``                 ``memory`` or ``compute``, of a decode step; ``kv_step_share_ratio`` is reading the cache
    ``break_even_tokens``     context from which 8 bits also decode faster; infinity for never
    ``prefill_share_ratio``   share of a request's time that its prompt takes
    ``attention``             one of ``ATTENTIONS``; ``hybrid`` has recurrent layers besides, ``state`` has only those
    ``head_dim``              of the widest attention layer; ``window_tokens`` is the smallest sliding window
    ``shrink_ratio``          how many times smaller than with a key and value head per query head the cache is already
    ``step_increase_ratio``, ``memory_saved_ratio``, ``quality_loss_ratio``  what the option at hand would cost and save
    ``prefix_reuse``          whether prompts share prefixes (agents, several turns)
    """

    context_tokens: int
    concurrency: int
    pressure_ratio: float | None = None
    pressure_8bit_ratio: float | None = None
    kv_share_ratio: float | None = None
    bound: str | None = None
    kv_step_share_ratio: float | None = None
    break_even_tokens: float | None = None
    prefill_share_ratio: float | None = None
    vendor: str | None = None
    compute_capability: tuple[int, int] | None = None
    gfx_target: str | None = None
    attention: str | None = None
    head_dim: int | None = None
    window_tokens: int | None = None
    shrink_ratio: float | None = None
    step_increase_ratio: float | None = None
    memory_saved_ratio: float | None = None
    quality_loss_ratio: float | None = None
    task: str = "chat"
    quality: str = "normal"
    engine: str = "none"
    prefix_reuse: bool | None = None
    speculative: bool = False
    disaggregated: bool = False

    @property
    def fp8_hardware(self) -> bool | None:
        """Whether tensor cores take FP8: compute capability 8.9 and up, MI300 and newer; None where not known."""
        if self.compute_capability is not None:
            return self.compute_capability >= (8, 9)
        if self.gfx_target is not None:
            return self.gfx_target.startswith(_FP8_GFX)
        return False if self.vendor == "apple" else None

    @property
    def eight_bit(self) -> str:
        """What ``8bit`` means here: ``fp8`` where tensor cores take it, else ``int8``."""
        return "fp8" if self.fp8_hardware else "int8"

    @property
    def memory_pressure(self) -> str | None:
        """``low``, ``medium`` or ``high``, by the pool; without one by the share of the memory (never ``high``)."""
        if self.pressure_ratio is not None:
            return pressure_class(self.pressure_ratio)
        if self.kv_share_ratio is not None:
            return "medium" if self.kv_share_ratio > LARGE_SHARE else "low"
        return None

    @property
    def concurrency_class(self) -> str:
        """``low`` or ``high``."""
        return "high" if self.concurrency >= HIGH_CONCURRENCY else "low"


FIELDS = (
    *(entry.name for entry in fields(Case)),
    *("fp8_hardware", "memory_pressure", "concurrency_class"),
)
"""What a condition may name."""


def pressure_class(pressure_ratio: float) -> str:
    """``low``, ``medium`` or ``high``."""
    if pressure_ratio < MEDIUM_PRESSURE:
        return "low"
    return "medium" if pressure_ratio <= HIGH_PRESSURE else "high"


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "in": lambda value, allowed: value in allowed,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """``field operator bound``; the bound is a value, or what ``bound_field`` has in the case."""

    field: str
    operator: str
    bound: Any = None
    bound_field: str | None = None

    def met(self, case: Case) -> bool | None:
        """Whether the case meets it; an unknown value leaves it open (None)."""
        value, bound = self._sides(case)
        return None if value is None or bound is None else OPERATORS[self.operator](value, bound)

    def check(self, case: Case) -> Check:
        """The same, with the values shown."""
        value, bound = self._sides(case)
        met = self.met(case)
        if met is None:
            unknown = self.field if value is None else str(self.bound_field)
            return Check(condition=self, met=None, shown=f"{_label(unknown)} is not known")
        return Check(condition=self, met=met, shown=self._shown(value, bound, met))

    def _sides(self, case: Case) -> tuple[Any, Any]:
        bound = self.bound if self.bound_field is None else getattr(case, self.bound_field)
        return getattr(case, self.field), bound

    def _shown(self, value: Any, bound: Any, met: bool) -> str:
        """``pressure 1.8 >= 0.7``, ``pressure 0.4, not >= 0.7``, ``task is chat``, ``task is chat, not code``."""
        label, shown, limit = (
            _label(self.field),
            _shown(self.field, value),
            _shown(self.bound_field or self.field, bound),
        )
        if self.operator in ("==", "in", "!="):
            if isinstance(value, bool):
                return f"{label}: {shown}"
            excluded = met if self.operator == "!=" else not met
            return f"{label} is {shown}, not {limit}" if excluded else f"{label} is {shown}"
        if self.bound_field is not None:
            limit = f"{_label(self.bound_field)} {limit}"
        return f"{label} {shown} {self.operator} {limit}" if met else f"{label} {shown}, not {self.operator} {limit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A condition on a case: met, not met or open (None), and the values it was judged by."""

    condition: Condition
    met: bool | None
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Something to do: its ``label``, and the cache formats that stand for it (``K/V`` for a pair), the usual first."""

    name: str
    label: str
    formats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When all of ``when`` are met, ``advice`` is what to try in order, ``avoid`` what not to.

    The first rule that matches decides; all ``modifier`` rules that match are added to it.
    """

    id: str
    when: tuple[Condition, ...]
    advice: tuple[str, ...]
    reason: str
    sources: tuple[str, ...]
    avoid: tuple[str, ...] = ()
    modifier: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A rule that a case meets, and how each of its conditions was judged."""

    rule: Rule
    checks: tuple[Check, ...]

    @property
    def shown(self) -> str:
        """The conditions with their values, in one line."""
        return ", ".join(check.shown for check in self.checks) or "no other rule applies"


def matching_rules(rules: Iterable[Rule], case: Case) -> tuple[Match, ...]:
    """The rules that a case meets in the order of the file: the first that is no modifier decides."""
    return tuple(
        Match(rule=rule, checks=tuple(item.check(case) for item in rule.when))
        for rule in rules
        if all(item.met(case) for item in rule.when)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicRule:
    """A rule beside the classic matrix, in its words: ``side`` is ``use`` or ``skip`` compression."""

    id: str
    side: str
    text: str
    when: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicCheck:
    """A classic rule on a case: met, not met, or open where a value that decides is not known."""

    rule: ClassicRule
    met: bool | None
    checks: tuple[Check, ...]

    @property
    def shown(self) -> str:
        """The conditions with their values, in one line."""
        return ", ".join(check.shown for check in self.checks)


def classic_rules(rules: Iterable[ClassicRule], case: Case) -> tuple[ClassicCheck, ...]:
    """Every classic rule with its verdict and numbers."""
    return tuple(_judge(rule, case) for rule in rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """A row of the classic matrix: its words, and the contexts from ``min_tokens`` to ``max_tokens`` that it covers."""

    context: str
    concurrency: str
    memory_pressure: str
    recommendation: str
    advice: tuple[str, ...]
    min_tokens: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixMatch:
    """The row that applies; where none fits exactly, the nearest, with the reason."""

    row: MatrixRow
    exact: bool
    reason: str


def matrix_row(matrix: Sequence[MatrixRow], case: Case) -> MatrixMatch:
    """The row of a case: the context chooses the rows, then the nearest memory pressure, then the concurrency.

    Pressure goes first because it decides whether compression is needed at all.
    """
    rows = [row for row in matrix if _covers(row, case.context_tokens)]
    row = min(rows, key=lambda row: (_pressure_distance(row, case), not _concurrency_fits(row, case)))
    differs = []
    if case.memory_pressure is None:
        differs.append("the memory pressure is not known")
    elif case.memory_pressure != row.memory_pressure:
        differs.append(f"memory pressure is {case.memory_pressure}, not {row.memory_pressure}")
    if not _concurrency_fits(row, case):
        differs.append(f"concurrency {case.concurrency:,} is {case.concurrency_class}, not {row.concurrency}")
    if not differs:
        return MatrixMatch(row=row, exact=True, reason="the row applies as it stands")
    return MatrixMatch(row=row, exact=False, reason=f"nearest row of this context: {' and '.join(differs)}")


def _covers(row: MatrixRow, tokens: int) -> bool:
    return row.min_tokens <= tokens and (row.max_tokens is None or tokens <= row.max_tokens)


def _pressure_distance(row: MatrixRow, case: Case) -> int:
    order = ("low", "medium", "high")
    known = case.memory_pressure
    return 0 if known is None else abs(order.index(row.memory_pressure) - order.index(known))


def _concurrency_fits(row: MatrixRow, case: Case) -> bool:
    return row.concurrency in ("any", case.concurrency_class)


def _judge(rule: ClassicRule, case: Case) -> ClassicCheck:
    """False as soon as one condition fails, open while one is unknown and none has failed."""
    checks = tuple(item.check(case) for item in rule.when)
    verdicts = {check.met for check in checks}
    met = False if False in verdicts else None if None in verdicts else True
    return ClassicCheck(rule=rule, met=met, checks=checks)


_LABELS = {
    "pressure_ratio": "pressure",
    "pressure_8bit_ratio": "pressure with 8 bits",
    "kv_share_ratio": "cache share of memory",
    "kv_step_share_ratio": "cache share of the step",
    "break_even_tokens": "break-even context",
    "prefill_share_ratio": "prefill share",
    "shrink_ratio": "shrunk by the architecture",
    "step_increase_ratio": "longer step",
    "memory_saved_ratio": "memory saved",
    "quality_loss_ratio": "quality loss",
    "context_tokens": "context",
    "window_tokens": "window",
    "fp8_hardware": "FP8 tensor cores",
    "gfx_target": "GPU target",
    "concurrency_class": "concurrency",
    "head_dim": "head_dim",
}
"""What a field is called in a sentence; others are called by their name."""

_PERCENT = {
    *("kv_share_ratio", "kv_step_share_ratio", "prefill_share_ratio"),
    *("step_increase_ratio", "memory_saved_ratio", "quality_loss_ratio"),
}


def _label(name: str | None) -> str:
    return _LABELS.get(name or "", (name or "").replace("_", " "))


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return ".".join(map(str, value))
    if isinstance(value, tuple):
        return " or ".join(_shown(name, entry) for entry in value)
    if name in _PERCENT:
        return f"{100 * value:.3g}%"
    if name.endswith("_tokens"):
        return "never" if value == float("inf") else format_tokens(round(value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
