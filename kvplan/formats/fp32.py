"""Single precision: what CPU reference runs and some TensorRT-LLM and llama.cpp caches use."""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="fp32",
    summary="4 bytes per element",
    bits=32,
    aliases=("float32", "f32"),
)
