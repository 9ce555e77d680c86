"""Age tiers: the newest tokens in one format, older ones in smaller formats, the oldest dropped if wished.

``tiers:1024=bf16,4096=int8,rest=int4`` keeps the newest 1024 tokens in bf16, the 4096 before them in int8 and all
older ones in int4. ``auto`` stands for the request's own format, ``rest=drop`` for dropping.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from kvplan.core.errors import UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.policy import Place, Tier
from kvplan.core.units import parse_tokens

_EXAMPLE = "write tiers:1024=bf16,4096=int8,rest=int4"


@dataclass(frozen=True, slots=True)
class AgeTiers:
    """Newer tokens are stored in larger formats than older ones, newest tier first; the rest is stored or dropped."""

    name: ClassVar[str] = "tiers"
    aliases: ClassVar[tuple[str, ...]] = ("age_tiers",)
    newest: tuple[Tier, ...]
    rest: str | None = "auto"
    """Format of the tokens older than all tiers; None drops them."""

    @property
    def text(self) -> str:
        """As ``--policy`` takes it."""
        pairs = [f"{tier.tokens}={tier.cache_format or 'auto'}" for tier in self.newest]
        return f"{self.name}:{','.join(pairs)},rest={self.rest or 'drop'}"

    @property
    def format_names(self) -> tuple[str, ...]:
        """The formats that the tiers name, each once."""
        named = [tier.cache_format for tier in self.newest] + [self._rest_format]
        return tuple(dict.fromkeys(name for name in named if name))

    def tiers(self, resident_tokens: int, place: Place) -> tuple[Tier, ...]:
        """The tiers that hold tokens."""
        filled, left = [], resident_tokens
        for tier in self.newest:
            filled.append(Tier(min(tier.tokens, left), tier.cache_format))
            left -= filled[-1].tokens
        if self.rest is not None:
            filled.append(Tier(left, self._rest_format))
        return tuple(tier for tier in filled if tier.tokens) or (Tier(0),)

    def growth(self, resident_tokens: int, place: Place) -> Fraction:
        """1, until tokens are dropped."""
        kept_all = self.rest is not None or resident_tokens < sum(tier.tokens for tier in self.newest)
        return Fraction(int(kept_all))

    @property
    def _rest_format(self) -> str | None:
        return None if self.rest == "auto" else self.rest


def parse(arguments: str) -> AgeTiers:
    """``1024=bf16,4096=int8,rest=int4`` as a policy. Raises UsageError."""
    *newest, last = (_parse_pair(item) for item in arguments.split(","))
    if last[0] != "rest":
        raise UsageError(
            f"policy tiers does not say what becomes of older tokens: {arguments!r}", f"{_EXAMPLE} or rest=drop"
        )
    if not newest:
        raise UsageError(f"policy tiers names no tier before the rest: {arguments!r}", _EXAMPLE)
    tiers = []
    for tokens, cache_format in newest:
        if cache_format == "drop" or tokens == "rest":
            raise UsageError(f"policy tiers: only the last tier can be {tokens}={cache_format}", _EXAMPLE)
        tiers.append(Tier(parse_tokens(tokens, "policy tiers"), None if cache_format == "auto" else cache_format))
    return AgeTiers(tuple(tiers), None if last[1] == "drop" else last[1])


def _parse_pair(item: str) -> tuple[str, str]:
    tokens, _, cache_format = (piece.strip().lower() for piece in item.partition("="))
    if not tokens or not cache_format:
        raise UsageError(f"policy tiers: {item.strip()!r} is no tier", _EXAMPLE)
    return tokens, cache_format


POLICY = AgeTiers((Tier(1024, "bf16"), Tier(4096, "int8")), "int4")
