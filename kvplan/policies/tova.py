"""TOVA (arXiv 2401.06104): at every step the token that the last query attends to least is dropped."""

from __future__ import annotations

from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepRatio


@dataclass(frozen=True, slots=True)
class Tova(KeepRatio):
    """The ``keep`` of the tokens that the last query attends to most are kept."""

    name: ClassVar[str] = "tova"


POLICY = Tova()
