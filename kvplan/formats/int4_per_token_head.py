"""vLLM's INT4 with a scale per token and head; rows are rotated by a Hadamard matrix before they are rounded.

The 4-bit zero point hides in the low mantissa bits of the fp32 scale and costs nothing (vLLM 0.33
``ops/int4_per_token_head.py``). LMDeploy's ``quant_policy=4`` takes the same bytes.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="int4_per_token_head",
    summary="half a byte per element and an fp32 scale per row",
    bits=4,
    scale_bytes=4,
    aliases=("int4",),
)
