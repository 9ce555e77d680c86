"""ggml's q5_0: blocks of 32 5-bit codes with an fp16 scale, 22 bytes a block.

llama.cpp b10256 ``--cache-type-k`` and ``--cache-type-v``; ggml-common.h ``block_q5_0``.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="q5_0",
    summary="22 bytes per 32 elements",
    bits=5,
    scale_bytes=2,
    scale_group=32,
    block=32,
)
