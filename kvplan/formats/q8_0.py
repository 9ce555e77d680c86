"""ggml's q8_0: blocks of 32 8-bit codes with an fp16 scale, 34 bytes a block.

llama.cpp b10256 ``--cache-type-k`` and ``--cache-type-v``; ggml-common.h ``block_q8_0``.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="q8_0",
    summary="34 bytes per 32 elements",
    bits=8,
    scale_bytes=2,
    scale_group=32,
    block=32,
)
