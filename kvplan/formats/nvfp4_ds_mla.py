"""DeepSeek's packed latent rows in FP4, for Blackwell: 352 bytes a token and layer.

256 bytes of FP4 latent, 32 one-byte scales (one per 16 elements) and a rotary key of 64 FP8. vLLM 0.33
``mla_attention.py:1386``; SM100 only. Index keys stay as in fp8_ds_mla.
"""

from __future__ import annotations

from kvplan.core.format import PartFormat, RowFormat

FORMAT = PartFormat(
    name="nvfp4_ds_mla",
    summary="packed rows of 352 B: FP4 latent with scales, FP8 rotary key",
    bits=4,
    parts={
        "latent/512": RowFormat(
            name="nvfp4_ds_mla latent", summary="FP4, one-byte scale per 16", bits=4, scale_bytes=1, scale_group=16
        ),
        "rope/64": RowFormat(name="nvfp4_ds_mla rope", summary="FP8", bits=8),
        "index/128": RowFormat(name="nvfp4_ds_mla index", summary="FP8, fp32 scale", bits=8, scale_bytes=4),
    },
)
