"""Importance score: the attention that a token has received, observed once at the end of the prompt."""

from __future__ import annotations

from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio


@dataclass(frozen=True, slots=True)
class Importance(KeepRatio):
    """The ``keep`` of the tokens with the highest accumulated attention are kept."""

    name: ClassVar[str] = "importance"


POLICY = Importance()
