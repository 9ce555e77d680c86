"""The contract of a retention policy: of the tokens that geometry keeps, how many stay, and in which format.

A policy never sees a model. It sees one layer's resident tokens and where the layer stands among the layers that
hold prunable tokens, and answers with tiers from newest to oldest. Which tokens are kept is the runtime's business.
"""

from __future__ import annotations

from dataclasses import Field, field, fields, is_dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Protocol

from kvplan.core.frozen import dataclass


class Tier(NamedTuple):
    """``tokens`` kept tokens of one layer; ``cache_format`` is None where the request's own format holds them."""

    tokens: int
    cache_format: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a layer stands: the ``index``-th of ``count`` layers with prunable tokens."""

    index: int
    count: int


class RetentionPolicy(Protocol):
    """What sizing asks of a policy. Policies are frozen dataclasses; their fields are their options."""

    name: ClassVar[str]

    def tiers(self, resident_tokens: int, place: Place) -> tuple[Tier, ...]:
        """Kept tokens of one layer, newest tier first; their sum lies between 1 and ``resident_tokens``."""
        ...

    def growth(self, resident_tokens: int, place: Place) -> Fraction:
        """Kept tokens that one more resident token adds, in the last tier: between 0 and 1."""
        ...


@dataclass(frozen=True, slots=True)
class KeepRatio:
    """Base of the policies that keep a share of every layer's tokens, chosen by a score and rounded down.

    ``keep`` lies in (0, 1]; 1 keeps everything. The first ``sinks`` and the newest ``newest`` tokens are kept whatever
    their score: they count towards the share, and where the share is smaller they are kept all the same. Subclasses
    name themselves and say how tokens are scored; what they always keep besides is in ``always_kept``.
    """

    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    keep: Fraction = Fraction(1, 2)
    sinks: int = field(default=0, kw_only=True)
    newest: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        """Raise ValueError on a ratio outside (0, 1] and on negative token counts."""
        require_ratio("keep", self.keep)
        require_tokens("sinks", self.sinks, 0)
        require_tokens("newest", self.newest, 0)

    @property
    def always_kept(self) -> int:
        """Tokens that stay whatever the ratio, as far as there are as many."""
        return self.sinks + self.newest

    def tiers(self, resident_tokens: int, place: Place) -> tuple[Tier, ...]:
        """One tier: ``keep`` of the resident tokens, at least one and never fewer than those always kept."""
        return (Tier(max(floor_ratio(self.keep, resident_tokens), min(self.always_kept, resident_tokens))),)

    def growth(self, resident_tokens: int, place: Place) -> Fraction:
        """1 while all tokens are always kept, 0 while those outweigh the ratio, then ``keep`` on average."""
        if resident_tokens < self.always_kept:
            return Fraction(1)
        return self.keep if self.keep * resident_tokens >= self.always_kept else Fraction(0)


@dataclass(frozen=True, slots=True)
class KeepVoted(KeepRatio):
    """Base of the policies under which the last ``window`` queries vote for the tokens to keep, and stay themselves.

    The votes for a token are averaged with those of its neighbours: ``kernel`` tokens, an odd number.
    """

    window: int = 64
    kernel: int = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        """Raise ValueError on options that keep nothing, and on a kernel without a middle."""
        super().__post_init__()
        require_tokens("window", self.window, 1)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number of tokens, not {self.kernel}")

    @property
    def always_kept(self) -> int:
        """The sinks, and the window or the ``newest`` tokens, whichever are more."""
        return self.sinks + max(self.window, self.newest)


def require_ratio(name: str, ratio: Fraction) -> None:
    """Raise ValueError unless ``ratio`` lies in (0, 1]."""
    if not 0 < ratio <= 1:
        raise ValueError(f"{name} {ratio} lies outside (0, 1]")


def require_share(name: str, share: Fraction) -> None:
    """Raise ValueError unless ``share`` lies in [0, 1]."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} {share} lies outside [0, 1]")


def require_tokens(name: str, tokens: int, minimum: int) -> None:
    """Raise ValueError unless ``tokens`` is at least ``minimum``."""
    if tokens < minimum:
        raise ValueError(f"{name} must be at least {minimum} tokens, not {tokens}")


def kept_tokens(policy: RetentionPolicy, resident_tokens: int, place: Place) -> int:
    """The sum of a policy's tiers."""
    return sum(tier.tokens for tier in policy.tiers(resident_tokens, place))


def floor_ratio(ratio: Fraction, tokens: int) -> int:
    """``ratio`` of ``tokens``, rounded down but never below one token."""
    return max(1, int(ratio * tokens)) if tokens else 0


def describe_policy(policy: RetentionPolicy) -> str:
    """The policy as ``--policy`` takes it, every option written out: ``h2o:keep=0.2``.

    Options that only a name can set (``sinks=4``, a pooling kernel) are left out while they stand at their defaults.
    """
    text: str | None = getattr(policy, "text", None)
    if text is not None:
        return text
    options: tuple[Field[Any], ...] = fields(policy) if is_dataclass(policy) else ()
    given = [(item, getattr(policy, item.name)) for item in options]
    pairs = ",".join(
        f"{item.name}={_plain(value)}" for item, value in given if not (item.kw_only and value == item.default)
    )
    return f"{policy.name}:{pairs}" if pairs else policy.name


def _plain(value: Any) -> str:
    """A ratio as a decimal where that is exact (``0.2``), else as a fraction (``1/3``)."""
    if not isinstance(value, Fraction):
        return str(value)
    decimal = f"{float(value):g}"
    return decimal if Fraction(decimal) == value else str(value)
