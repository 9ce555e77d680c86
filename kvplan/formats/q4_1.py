"""ggml's q4_1: blocks of 32 4-bit codes with an fp16 scale and an fp16 minimum, 20 bytes a block.

llama.cpp b10256 ``--cache-type-k`` and ``--cache-type-v``; ggml-common.h ``block_q4_1``.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="q4_1",
    summary="20 bytes per 32 elements",
    bits=4,
    scale_bytes=4,
    scale_group=32,
    block=32,
)
