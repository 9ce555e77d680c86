"""Predicted beside measured: what ``kvplan verify`` finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from kvplan.core.frozen import dataclass

GROUPS: Mapping[str, str] = {
    "allocation": "real caches of the predicted layout, allocated on the device",
    "model code": "the model's own code in transformers, with its cache geometry and little else",
    "frontier": "the largest request that fits, and the next block, which must not",
    "engine": "what the real engine says of itself",
}
"""What each group of checks runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure. ``what`` names it (``layer 3 sliding_window``); ``detail`` says how it was measured.

    ``subject`` is whose figure it is, where several are checked together: a request of a set, or a rank. A check passes
    where the difference is at most ``allowed_bytes``: 0 but where the device itself rounds.
    """

    group: str
    what: str
    predicted_bytes: int
    measured_bytes: int
    allowed_bytes: int = 0
    detail: str = ""
    subject: str = ""

    @property
    def difference_bytes(self) -> int:
        """Measured less predicted."""
        return self.measured_bytes - self.predicted_bytes

    @property
    def passed(self) -> bool:
        """Whether the figures agree."""
        return abs(self.difference_bytes) <= self.allowed_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """Where the checks ran. ``total_bytes`` and ``free_bytes`` are those before anything was allocated."""

    name: str
    kind: str
    total_bytes: int
    free_bytes: int
    driver: str | None = None
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All checks of one request on one device, with the versions that they ran on.

    ``request`` are the words that ask for it again; ``skipped`` says which checks did not run, and why; ``shares`` what
    of the model each subject holds, where those are ranks.
    """

    device: DeviceFacts
    request: Mapping[str, str] = field(hash=False)
    checks: tuple[Check, ...]
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shares: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def passed(self) -> bool:
        """Whether every check passed; a verification without checks proves nothing and fails."""
        return bool(self.checks) and all(check.passed for check in self.checks)
