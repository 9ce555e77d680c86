"""FP8 with 4 exponent and 3 mantissa bits, as vLLM, SGLang, TensorRT-LLM and LMDeploy store it.

The scale is static and belongs to the layer: engines keep it with the weights, so a row carries none. Index keys of
sparse attention are the exception: an fp32 scale per 128 elements makes 132 bytes of 128 (vLLM 0.33
``deepseek_v2.py:655``).
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="fp8_e4m3",
    summary="1 byte per element, static scale kept with the weights",
    bits=8,
    index_scale_bytes=4,
    aliases=("fp8", "e4m3", "fp8_e4m3fn"),
)
