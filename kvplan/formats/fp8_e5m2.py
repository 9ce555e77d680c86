"""FP8 with 5 exponent and 2 mantissa bits: wider range, twice the rounding error of e4m3 (vLLM, SGLang, LMDeploy).

Index keys of sparse attention stay in e4m3 with an fp32 scale per 128 elements.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="fp8_e5m2",
    summary="1 byte per element, no scale",
    bits=8,
    index_scale_bytes=4,
    aliases=("e5m2",),
)
