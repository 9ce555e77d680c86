"""NVIDIA's FP4: E2M1 codes in blocks of 16 with an e4m3 scale each (vLLM, SGLang, TensorRT-LLM on Blackwell).

A row of 128 takes 64 + 8 = 72 bytes: 3.56 times smaller than bf16, not 4 (vLLM 0.33 ``utils/torch_utils.py:542``).
The ``4over6`` variant chooses its scales otherwise and takes the same bytes.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="nvfp4",
    summary="half a byte per element and an e4m3 scale per 16",
    bits=4,
    scale_bytes=1,
    scale_group=16,
    block=16,
    aliases=("nvfp4_4over6",),
)
