"""Integer codes in groups along the row, each with a 16-bit scale and a 16-bit zero point.

The common shape of software KV quantizers: mlx-lm 0.32 (``--kv-bits``, group 64) stores exactly this, that is
bits + 0.5 per element. ``residual`` newest tokens can wait in the model's dtype.
"""

from __future__ import annotations

from kvplan.core.format import GroupFormat

FORMAT = GroupFormat(
    name="int_group",
    summary="integer codes, scale and zero point (4 bytes) per group along the row",
    bits=4,
    group=64,
    residual=0,
    presets={
        "int8_group": {"bits": "8"},
        "int4_group": {"bits": "4"},
        "int2_group": {"bits": "2"},
        "int2": {"bits": "2"},
    },
)
