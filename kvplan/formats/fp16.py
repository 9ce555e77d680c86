"""IEEE half precision: llama.cpp's default cache type and that of models published in float16."""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="fp16",
    summary="2 bytes per element",
    bits=16,
    aliases=("float16", "f16", "half"),
)
