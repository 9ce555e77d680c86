"""Attention threshold: a token stays while the attention it receives exceeds a threshold (Scissorhands, KVzap).

How many tokens pass depends on the text, so ``keep`` is the expected share: measure it, and plan for its maximum.
"""

from __future__ import annotations

from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio


@dataclass(frozen=True, slots=True)
class Threshold(KeepRatio):
    """Tokens whose attention exceeds a threshold are kept, expected to be ``keep`` of them."""

    name: ClassVar[str] = "threshold"


POLICY = Threshold()
