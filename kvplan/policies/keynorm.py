"""Key norm (arXiv 2406.11430; kvpress ``KnormPress``): keys of small L2 norm draw attention, large ones are dropped."""

from __future__ import annotations

from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio


@dataclass(frozen=True, slots=True)
class KeyNorm(KeepRatio):
    """The ``keep`` of the tokens with the smallest key norms are kept."""

    name: ClassVar[str] = "keynorm"
    aliases: ClassVar[tuple[str, ...]] = ("knorm", "key_norm")


POLICY = KeyNorm()
