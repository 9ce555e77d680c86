"""vLLM's INT8 with a dynamic scale per token and head, one for the key and one for the value.

vLLM 0.33 ``v1/attention/backends/triton_attn.py`` ``customize_spec``. LMDeploy's ``quant_policy=8`` takes the same
bytes (a 16-bit scale and a 16-bit zero point per row), so the saving is 1.94 times at a head of 128, not 2.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="int8_per_token_head",
    summary="1 byte per element and an fp32 scale per row",
    bits=8,
    scale_bytes=4,
    aliases=("int8",),
)
