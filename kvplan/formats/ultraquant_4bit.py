"""vLLM's FP4 for ROCm: E2M1 codes with a power-of-two scale per 32 elements.

vLLM 0.33 ``v1/attention/ops/ultraquant/format.py:195``. The first and last two layers of models with attention in
every layer stay in the model's dtype (``engine/arg_utils.py`` ``get_boundary_skip_layers``).
"""

from __future__ import annotations

from kvplan.core.format import RowFormat

FORMAT = RowFormat(
    name="ultraquant_4bit",
    summary="half a byte per element and a power-of-two scale per 32; two layers at each end stay native",
    bits=4,
    scale_bytes=1,
    scale_group=32,
    block=32,
    boundary_layers=2,
)
