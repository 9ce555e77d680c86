"""INT4 with one fp32 scale for a layer's whole key tensor and one for its value tensor.

The lower bound of 4-bit storage and a yardstick for quality; no serving engine ships it.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="int4_per_tensor",
    summary="half a byte per element and one fp32 scale per tensor",
    bits=4,
    tensor_bytes=4,
)
