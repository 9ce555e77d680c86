"""transformers' QuantizedCache with the hqq backend: groups of 64 along the row, 1, 2, 4 or 8 bits.

hqq computes scale and zero point in fp32, and the cache casts them to the model's dtype: 4 bytes per group in a
16-bit model, bits + 0.5 per element; an fp32 model pays bits + 1 (both measured with transformers 5.23 and hqq
0.2.8). 3 bits are left out: hqq cannot read such a cache back on the axis that caches use.

transformers quantizes a whole prompt at once, whatever its length, and leaves up to ``residual_length`` - 1 = 127
tokens generated after it in the model's dtype until the next flush (5.23 ``cache_utils.py``
``QuantizedLayer.update``). A context of T tokens means a prompt of T tokens here: none waits. ``residual=127``
counts the most that generation leaves.
"""

from __future__ import annotations

from kvplan.core.format import GroupFormat

FORMAT = GroupFormat(
    name="hqq",
    summary="integer codes, scale and zero point (4 bytes) per 64 elements, after a prompt of the whole context",
    bits=4,
    group=64,
    residual=0,
    presets={name: {"bits": name[3:]} for name in ("hqq8", "hqq4", "hqq2", "hqq1")},
    allowed_bits=(1, 2, 4, 8),
)
