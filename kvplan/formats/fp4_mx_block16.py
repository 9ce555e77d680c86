"""SGLang's FP4: E2M1 codes in blocks of 16 with a one-byte scale each, called fp4_e2m1 until mid-2026.

SGLang 0.5.23, quantized_kv_cache.md: 3.56 times smaller than bf16.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="fp4_mx_block16",
    summary="half a byte per element and a one-byte scale per 16",
    bits=4,
    scale_bytes=1,
    scale_group=16,
    block=16,
    aliases=("fp4_e2m1",),
)
