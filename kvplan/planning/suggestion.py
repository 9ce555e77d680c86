"""One change that was tried on a placement that does not fit."""

from __future__ import annotations

from typing import Any

from kvplan.core.engine import Engine
from kvplan.core.errors import KvplanError
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.core.units import format_bytes, format_tokens
from kvplan.planning.fit import fit_model
from kvplan.planning.fit_check import check_fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change, and what comes of it.

    ``option`` is added to the command line (the engine's own where kvplan has none, as for host memory); ``words`` say
    what it changes, or why it does not help. ``result`` is the changed request, asked anew; None for what does not
    help. ``host_bytes`` are taken of the host's memory.
    """

    option: str
    words: str
    result: FitResult | None = None
    host_bytes: int = 0

    @property
    def fits(self) -> bool:
        """Whether everything fits after the change."""
        return self.result is not None and self.result.fits

    @property
    def kv_bytes_needed(self) -> int | None:
        """The cache on the fullest rank."""
        return self.result.kv_bytes_needed if self.result else None

    @property
    def available_bytes(self) -> int | None:
        """What is left for the cache there."""
        return self.result.available_bytes if self.result else None

    @property
    def max_concurrency(self) -> int | None:
        """Requests of the asked context that all replicas hold at once."""
        return self.result.max_concurrency if self.result else None

    @property
    def max_context_tokens(self) -> int | None:
        """The longest single request."""
        return self.result.max_context_tokens if self.result else None

    @property
    def capacity_tokens(self) -> int | None:
        """As the engine logs it."""
        return self.result.capacity.capacity_tokens if self.result and self.result.capacity else None

    @property
    def line(self) -> str:
        """The suggestion in one line."""
        if self.result is None:
            return f"no help: {self.option} ({self.words})"
        size, result = self.result.request.size, self.result
        share = f"cache {format_bytes(result.kv_bytes_needed)} of {format_bytes(result.available_bytes)} per device"
        requests = "1 request" if result.max_concurrency == 1 else f"up to {result.max_concurrency:,} requests"
        holds = f"{requests} of {format_tokens(size.context_tokens)}"
        return f"{self.option}: {self.words}; {share}, {holds}"

    def fields(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "option": self.option,
            "words": self.words,
            "fits": self.fits,
            "num_devices": self.result.request.num_devices if self.result else None,
            "kv_bytes_needed": self.kv_bytes_needed,
            "available_bytes": self.available_bytes,
            "max_concurrency": self.max_concurrency,
            "max_context_tokens": self.max_context_tokens,
            "capacity_tokens": self.capacity_tokens,
            "host_bytes": self.host_bytes,
        }


def offer(
    result: FitResult, engine: Engine, option: str, words: str, request: FitRequest, model: Model | None = None
) -> tuple[Suggestion, ...]:
    """The change if it fits, asked anew; nothing where it does not or the engine refuses it."""
    model = model or result.model
    try:
        if not check_fit(model, request, engine).fits:
            return ()
        return (Suggestion(option=option, words=words, result=fit_model(model, request, engine)),)
    except KvplanError:
        return ()


def refuse(option: str, reason: str) -> Suggestion:
    """A change that does not help."""
    return Suggestion(option=option, words=reason)
