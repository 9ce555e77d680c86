"""ggml's q4_0: blocks of 32 4-bit codes with an fp16 scale, 18 bytes a block.

llama.cpp b10256 ``--cache-type-k`` and ``--cache-type-v``; ggml-common.h ``block_q4_0``.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="q4_0",
    summary="18 bytes per 32 elements",
    bits=4,
    scale_bytes=2,
    scale_group=32,
    block=32,
)
