"""What ``kvplan recommend`` answers with: the advice, what it rests on, and what else could be done."""

from __future__ import annotations

from kvplan.core.advice import Case, ClassicCheck, Match, MatrixMatch
from kvplan.core.fit import FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.quality import Gate, QualityMatch, SpeedRow
from kvplan.core.roofline import StepEstimate
from kvplan.planning.cache_options import CacheOption
from kvplan.planning.suggestion import Suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One cache with what it brings and costs.

    ``step`` is one decode step with as many sequences as are asked for and held at once, ``tokens_per_second`` that of
    all replicas; both estimates, None where not known. ``quality`` is the nearest published figure, ``gate`` what must
    be passed (None for the native cache), ``needs_gate`` why this choice is not to be used before.
    """

    option: CacheOption
    batch: int
    step: StepEstimate | None
    speed: SpeedRow | None
    quality: QualityMatch | None
    gate: Gate | None
    evaluate: str | None

    @property
    def result(self) -> FitResult:
        """The fit."""
        return self.option.result

    @property
    def fits(self) -> bool:
        """Whether it starts and holds all that is asked."""
        return self.option.result.fits

    @property
    def tokens_per_second(self) -> float | None:
        """Of all replicas together."""
        rate = self.step.tokens_per_second if self.step else None
        return None if rate is None else rate * self.result.request.size.parallel.dp


@dataclass(frozen=True, slots=True)
class Rejected:
    """What was not recommended, and why."""

    option: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The answer. ``measures`` are changes besides the cache that are needed for everything to fit, each with those
    before it: a larger placement first, on which ``chosen`` is.

    ``decision`` is the rule that decided, ``decision_there`` the one that decided on the larger placement, and
    ``modifiers`` those that add to it; ``actions`` are what they ask for in words. ``differs`` says in a line why the
    advice is not the classic matrix's, None where it is.
    """

    case: Case
    native: Choice
    chosen: Choice
    measures: tuple[Suggestion, ...]
    decision: Match
    decision_there: Match | None
    modifiers: tuple[Match, ...]
    actions: tuple[str, ...]
    matrix: MatrixMatch
    classic: tuple[ClassicCheck, ...]
    differs: str | None
    alternatives: tuple[Choice, ...]
    rejected: tuple[Rejected, ...]
    prefill_seconds: float | None
    notes: tuple[str, ...] = ()

    @property
    def compresses(self) -> bool:
        """Whether anything else than the native cache is advised."""
        return self.chosen.option.format_name != self.native.option.format_name

    @property
    def final(self) -> FitResult:
        """What is promised to fit: the chosen cache with all measures."""
        results = [entry.result for entry in self.measures if entry.result is not None]
        return results[-1] if results else self.chosen.result

    @property
    def savings_ratio(self) -> float:
        """Share of the native cache's bytes, on all devices, that the chosen one saves."""
        before, after = (
            choice.option.needed_bytes * choice.result.request.num_devices for choice in (self.native, self.chosen)
        )
        return 1 - after / before
