"""OCP microscaling FP4: E2M1 codes in blocks of 32 with a shared power-of-two scale (OCP MX specification 1.0).

No serving engine takes this name for a KV cache in November 2026: SGLang refuses it, vLLM has nvfp4.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="mxfp4",
    summary="half a byte per element and a power-of-two scale per 32",
    bits=4,
    scale_bytes=1,
    scale_group=32,
    block=32,
)
