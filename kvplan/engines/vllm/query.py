"""What a layer asks of an attention backend, and the block sizes that a backend's kernels take."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kvplan.core.frozen import dataclass
from kvplan.engines.vllm.rules import Rules
from kvplan.engines.vllm.run import Device


class Blocks(NamedTuple):
    """Kernel block sizes: ``exact`` ones, and every multiple of ``multiple`` (0: none)."""

    exact: tuple[int, ...] = ()
    multiple: int = 0

    @property
    def bases(self) -> tuple[int, ...]:
        """Each exact size, and the smallest multiple."""
        return (*self.exact, self.multiple) if self.multiple else self.exact

    @property
    def smallest(self) -> int:
        """The smallest block."""
        return min(self.bases)

    def accept(self, block_tokens: int | None) -> bool:
        """Whether a block is whole kernel blocks (0.32 ``v1/attention/backend.py:119``); None asks for nothing."""
        return block_tokens is None or any(block_tokens % base == 0 for base in self.bases)

    def largest_within(self, tokens: int) -> int:
        """The largest size of at most ``tokens``, else the smallest (``layers/attention/attention.py:101``)."""
        candidates = list(self.exact)
        if self.multiple:
            candidates.append(max(self.multiple, tokens // self.multiple * self.multiple))
        fitting = [size for size in candidates if size <= tokens]
        return max(fitting) if fitting else min(candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One layer's question. ``model_*`` and ``run_dtype`` are the whole model's, which some kernels look at.

    ``dtype`` is the layer's cache dtype in vLLM's words. ``v_head_dim`` is 0 where keys and values are one latent row.
    """

    rules: Rules
    device: Device
    head_dim: int
    v_head_dim: int
    dtype: str
    run_dtype: str
    model_head_dim: int
    model_kv_heads: int
    rank_heads: int
    tp: int = 1
    dcp: int = 1
    latent: bool = False
    sparse: bool = False
    sinks: bool = False
    window: bool = False
    image_prefix: bool = False
    cross: bool = False
    softcap: bool = False
    user_block_tokens: int | None = None
    user_backend: str | None = None

    @property
    def own(self) -> Query:
        """The layer asked as if it were the whole model: kernels then look at its own head and dtype."""
        return replace(self, model_head_dim=self.head_dim, run_dtype=self.dtype)

    @property
    def text(self) -> str:
        """The layer in a few words, for a refusal."""
        words = [f"a head of {self.head_dim}", f"cache dtype {self.dtype}"]
        words += [f"block size {self.user_block_tokens}"] if self.user_block_tokens else []
        flags = (
            (self.latent, "latent attention"),
            (self.sparse, "an indexer"),
            (self.sinks, "attention sinks"),
            (self.window, "a sliding window"),
            (self.image_prefix, "images that attend both ways"),
            (self.cross, "cross-attention"),
        )
        return ", ".join(words + [word for flag, word in flags if flag])
