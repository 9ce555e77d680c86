"""The Hadamard rotation as matrices that kernels load, kept by width and device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kvplan.runtime.hadamard import rotation_matrix


@lru_cache(maxsize=64)
def rotation(width: int, device: torch.device) -> Tensor:
    """The orthonormal [width, width] float32 matrix, row by row in memory. Shared: do not write to it."""
    with torch.inference_mode(False):
        return rotation_matrix(width, device).contiguous()


@lru_cache(maxsize=64)
def signs(width: int, device: torch.device, dtype: torch.dtype, transpose: bool) -> Tensor:
    """The same times sqrt(width): ones and minus ones, exact in 16-bit floats; ``transpose`` for the way back."""
    matrix = rotation(width, device)
    with torch.inference_mode(False):
        return (matrix.T if transpose else matrix).sign().to(dtype).contiguous()
