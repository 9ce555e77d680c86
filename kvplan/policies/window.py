"""A recency window, with attention sinks on request (StreamingLLM, arXiv 2309.17453, keeps 4)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import Place, Tier, require_tokens


@dataclass(frozen=True, slots=True)
class Window:
    """The newest ``window`` tokens are kept, and the first ``sinks`` tokens besides."""

    name: ClassVar[str] = "window"
    aliases: ClassVar[tuple[str, ...]] = ("recency",)
    presets: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "streaming_llm": {"sinks": "4"},
        "streaming": {"sinks": "4"},
    }
    window: int = 4096
    sinks: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError on an empty window."""
        require_tokens("window", self.window, 1)
        require_tokens("sinks", self.sinks, 0)

    def tiers(self, resident_tokens: int, place: Place) -> tuple[Tier, ...]:
        """One tier: min(resident, window + sinks)."""
        return (Tier(min(resident_tokens, self.window + self.sinks)),)

    def growth(self, resident_tokens: int, place: Place) -> Fraction:
        """1 until the window is full, then 0."""
        return Fraction(int(resident_tokens < self.window + self.sinks))


POLICY = Window()
