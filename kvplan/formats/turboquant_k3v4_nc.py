"""vLLM's TurboQuant with 3-bit keys and 4-bit values: 4.34 times smaller than bf16 at a head of 128.

vLLM 0.33 ``quantization/turboquant/config.py``: a key row carries a 16-bit norm, a value row an fp16 scale and zero
point, and both together are padded to even bytes. The first and last two layers of models with attention in every
layer stay in the model's dtype (``engine/arg_utils.py`` ``get_boundary_skip_layers``). Latents have no such layout.
"""

from __future__ import annotations

from fractions import Fraction

from kvplan.core.format import PartFormat, RowFormat

FORMAT = PartFormat(
    name="turboquant_k3v4_nc",
    summary="3-bit keys, 4-bit values; two layers at each end stay native",
    bits=Fraction(7, 2),
    parts={
        "key": RowFormat(
            name="turboquant_k3v4_nc key", summary="3 bits and a norm", bits=3, scale_bytes=2, row_multiple=2
        ),
        "value": RowFormat(name="turboquant_k3v4_nc value", summary="4 bits, scale and zero", bits=4, scale_bytes=4),
    },
    boundary_layers=2,
)
