"""transformers' QuantizedCache with the quanto backend: groups of 64 along the row, 2 or 4 bits.

Scale and shift have the model's dtype: 4 bytes per group in a 16-bit model, so 4.5 and 2.5 bits per element
(measured with transformers 5.23 and optimum-quanto 0.2.7).

transformers quantizes a whole prompt at once, whatever its length, and leaves up to ``residual_length`` - 1 = 127
tokens generated after it in the model's dtype until the next flush (5.23 ``cache_utils.py``
``QuantizedLayer.update``). A context of T tokens means a prompt of T tokens here: none waits. ``residual=127``
counts the most that generation leaves.
"""

from __future__ import annotations

from kvplan.core.format import GroupFormat

FORMAT = GroupFormat(
    name="quanto",
    summary="integer codes, scale and shift (4 bytes) per 64 elements, after a prompt of the whole context",
    bits=4,
    group=64,
    residual=0,
    presets={"quanto4": {"bits": "4"}, "quanto2": {"bits": "2"}},
    allowed_bits=(2, 4),
)
