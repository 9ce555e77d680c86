"""vLLM's FP8 with a dynamic scale per token and head, one for the key and one for the value.

vLLM 0.33 ``v1/attention/backends/triton_attn.py`` ``customize_spec``.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="fp8_per_token_head",
    summary="1 byte per element and an fp32 scale per row",
    bits=8,
    scale_bytes=4,
)
