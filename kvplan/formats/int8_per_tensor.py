"""INT8 with one fp32 scale for a layer's whole key tensor and one for its value tensor.

The cheapest INT8 and the least precise; TensorRT-LLM's legacy engine path works so.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="int8_per_tensor",
    summary="1 byte per element and one fp32 scale per tensor",
    bits=8,
    tensor_bytes=4,
)
