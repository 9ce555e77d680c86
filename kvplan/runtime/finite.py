"""What every codec makes of infinities and NaN, before it looks for a scale."""

from __future__ import annotations

from torch import Tensor


def finite(rows: Tensor) -> Tensor:
    """Rows [..., width] in float32 with NaN as 0 and each infinity as its row's largest finite magnitude.

    A row without any finite element becomes zeros.
    """
    rows = rows.float()
    largest = rows.where(rows.isfinite(), 0.0).abs().amax(dim=-1, keepdim=True)
    return rows.nan_to_num(nan=0.0).clamp(-largest, largest)
