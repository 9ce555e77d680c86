"""DeepSeek's packed FP8 latent rows, as FlashMLA's sparse kernels read them.

656 bytes a token and layer for a latent of 512 and a rotary key of 64 (DeepSeek-V3.2): 512 FP8, four fp32 scales,
64 bf16. 584 bytes for DeepSeek-V4's 448 and 64: 448 FP8, 64 bf16 and 8 bytes of one-byte scales (seven and a pad).
Index keys take 132 bytes of 128. vLLM 0.33 ``mla_attention.py:1386`` and ``flashmla_sparse.py``,
``deepseek_v2.py:655``.
"""

from __future__ import annotations

from kvplan.core.format import PartFormat, RowFormat

FORMAT = PartFormat(
    name="fp8_ds_mla",
    summary="packed rows: FP8 latent with scales, 16-bit rotary key (656 B in DeepSeek-V3.2, 584 B in V4)",
    bits=8,
    parts={
        "latent/512": RowFormat(
            name="fp8_ds_mla latent", summary="FP8, fp32 scale per 128", bits=8, scale_bytes=4, scale_group=128
        ),
        "latent/448": RowFormat(
            name="fp8_ds_mla latent", summary="FP8, 8 bytes of one-byte scales per row", bits=8, scale_bytes=8
        ),
        "rope/64": RowFormat(name="fp8_ds_mla rope", summary="16 bits", bits=16),
        "index/128": RowFormat(name="fp8_ds_mla index", summary="FP8, fp32 scale", bits=8, scale_bytes=4),
    },
)
