"""KIVI (arXiv 2402.02750): keys in groups along tokens, one per channel; values in groups along the row.

Group 32, residual 128, fp16 scale and minimum per group (KIVI ``quant/new_pack.py`` and ``docs/long_bench.md``):
bits + 1 per element. Keys leave the residual 128 at a time, values one by one, so the newest T mod 128 keys and the
newest 128 values are in full precision, and the bytes of keys fall each time that a residual is flushed.
"""

from __future__ import annotations

from kvplan.core.format import GroupFormat

FORMAT = GroupFormat(
    name="kivi",
    summary="keys per channel in groups of tokens, values per token, scale and minimum (4 bytes) per group",
    bits=2,
    group=32,
    residual=128,
    key_per_channel=True,
    presets={"kivi2": {"bits": "2"}, "kivi4": {"bits": "4"}},
)
