"""State slots of recurrent models: how many a memory holds, and what they take.

``mem_cache/kv_cache_configurator.py:3062-3410`` sizes them in floating-point GiB, which is repeated here step by step;
``mem_cache/memory_pool.py:640-960`` ``MambaPool`` allocates one slot more.
"""

from __future__ import annotations

from kvplan.core.errors import DoesNotFitError
from kvplan.core.frozen import dataclass
from kvplan.core.units import GIB
from kvplan.engines.sglang.layers import StateLayer

_SLOTS_PER_REQUEST = 3
_BUFFERS = {"no_buffer": 0, "extra_buffer": 2, "extra_buffer_lazy": 1}
STRATEGIES = ("auto", *_BUFFERS)


def slots_per_request(prefix_caching: bool, strategy: str, extra_buffer: bool) -> int:
    """Slots for each running request (``_calculate_mamba_ratio``): 1 without prefix caching, else 3 and its buffers.

    ``auto`` takes the extra buffer of the overlap scheduler where the model's class has one.
    """
    if not prefix_caching:
        return 1
    if strategy == "auto":
        strategy = "extra_buffer" if extra_buffer else "no_buffer"
    return _SLOTS_PER_REQUEST + _BUFFERS[strategy]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRules:
    """What sizes the slots of all stages.

    ``all_bytes`` is one slot of the whole model, ``stage_share`` the largest stage's share of its recurrent layers;
    ``draft_tokens`` are verified in each step (0 without drafting); ``running`` is ``--max-running-requests``.
    """

    all_bytes: int
    stage_share: float
    per_request: int
    memory_ratio: float
    prefix_caching: bool
    draft_tokens: int = 0
    running: int | None = None

    @property
    def slot_bytes(self) -> int:
        """One slot in the fullest stage."""
        return int(self.all_bytes * self.stage_share)

    def split(self, budget_bytes: int) -> tuple[int, int]:
        """(slots, bytes left for the pools) of a budget. Raises DoesNotFitError as SGLang refuses it."""
        rest = budget_bytes / GIB
        slot, drafts = self.slot_bytes, self.draft_tokens
        if not self.prefix_caching and self.running is not None:
            slots = max(1, self.running)
            if drafts:
                rest -= slot * (slots + 1) * drafts / GIB
        else:
            share = rest * self.memory_ratio / (1 + self.memory_ratio) * GIB
            if drafts:
                slots = int((share - slot * (1 + drafts)) // (slot * (1 + drafts / self.per_request)))
                capped = min(max(1, self.running or 0), slots // self.per_request)
                rest -= slot * (capped + 1) * drafts / GIB
            else:
                slots = int((share - slot) // slot)
        if slots // self.per_request < 1:
            raise DoesNotFitError(
                f"Not enough GPU memory for hybrid (mamba/linear-attention) state cache: {max(0, slots)} slots of "
                f"{slot:,} bytes, and a request takes {self.per_request}",
                "give more memory, or leave prefix caching out (--no-prefix-caching)",
            )
        return slots, int((rest - (slots + 1) * slot / GIB) * GIB)


def draft_state_bytes(layer: StateLayer, draft_tokens: int) -> int:
    """States that one running request keeps of the tokens being verified, one layer.

    A state for each; the convolution's windows overlap, except in KDA (``memory_pool.py:135``).
    """
    if not draft_tokens:
        return 0
    rows = layer.conv_rows or 1
    windows = draft_tokens + rows - 1 if layer.overlapping else draft_tokens * rows
    return draft_tokens * layer.ssm_bytes + layer.conv_bytes // rows * windows
