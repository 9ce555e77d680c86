"""LMDeploy's TurboQuant (``--quant-policy turbo_quant`` or 42): 4-bit keys and 2-bit values.

A key's row has a 16-bit scale and a 16-bit zero point per head, a value's row one 16-bit scale (0.18.0
``pytorch/engine/cache_engine/schema.py``, ``build_quant_cache_descs``).
"""

from __future__ import annotations

from kvplan.core.format import PartFormat, RowFormat

FORMAT = PartFormat(
    name="turbo_quant",
    summary="4-bit keys with 4 bytes per row, 2-bit values with 2",
    bits=3,
    parts={
        "key": RowFormat(
            name="turbo_quant key", summary="4 bits, scale and zero point", bits=4, scale_bytes=4, block=2
        ),
        "value": RowFormat(name="turbo_quant value", summary="2 bits, one scale", bits=2, scale_bytes=2, block=4),
    },
)
