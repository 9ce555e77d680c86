"""ggml's iq4_nl: blocks of 32 4-bit codes of a fixed non-linear table with an fp16 scale, 18 bytes a block.

llama.cpp b10256 ``--cache-type-k`` and ``--cache-type-v``; ggml-common.h ``block_iq4_nl``.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="iq4_nl",
    summary="18 bytes per 32 elements",
    bits=4,
    scale_bytes=2,
    scale_group=32,
    block=32,
)
