"""OCP microscaling FP8: FP8 codes in blocks of 32 with a shared power-of-two scale (SGLang 0.5.23 on SM100)."""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="mxfp8",
    summary="1 byte per element and a power-of-two scale per 32",
    bits=8,
    scale_bytes=1,
    scale_group=32,
    block=32,
)
