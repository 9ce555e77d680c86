"""bfloat16: the default cache dtype of every serving engine for models published in bfloat16."""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="bf16",
    summary="2 bytes per element",
    bits=16,
    aliases=("bfloat16",),
)
