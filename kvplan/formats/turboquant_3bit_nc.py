"""vLLM's TurboQuant with 3-bit keys and values: 5.02 times smaller than bf16 at a head of 128.

vLLM 0.33 ``quantization/turboquant/config.py``: a key row carries a 16-bit norm, a value row an fp16 scale and zero
point, and both together are padded to even bytes. The first and last two layers of models with attention in every
layer stay in the model's dtype (``engine/arg_utils.py`` ``get_boundary_skip_layers``). Latents have no such layout.
"""

from __future__ import annotations

from kvplan.core.format import PartFormat, RowFormat

FORMAT = PartFormat(
    name="turboquant_3bit_nc",
    summary="3-bit keys, 3-bit values; two layers at each end stay native",
    bits=3,
    parts={
        "key": RowFormat(name="turboquant_3bit_nc key", summary="3 bits and a norm", bits=3, scale_bytes=2),
        "value": RowFormat(name="turboquant_3bit_nc value", summary="3 bits, scale and zero", bits=3, scale_bytes=4),
    },
    boundary_layers=2,
)
