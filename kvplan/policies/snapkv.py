"""SnapKV (arXiv 2404.14469): queries of the prompt's last window vote for the tokens to keep.

The window itself is always kept. Defaults are those of kvpress 0.5.5 (``SnapKVPress``): 64 tokens, votes averaged over
5 neighbours.
"""

from __future__ import annotations

from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.policy import KeepVoted


@dataclass(frozen=True, slots=True)
class SnapKV(KeepVoted):
    """The ``keep`` of the tokens that the last ``window`` queries attend to most are kept, the window among them."""

    name: ClassVar[str] = "snapkv"
    aliases: ClassVar[tuple[str, ...]] = ("snap_kv",)


POLICY = SnapKV()
