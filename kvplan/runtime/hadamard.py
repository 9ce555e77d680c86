"""An orthonormal Hadamard rotation of rows, which spreads an outlier over all elements of its row.

``rotate`` multiplies a row by D H / sqrt(n): fixed random signs D, then Sylvester's matrix H. The rotation is
orthonormal, so q . k equals rotate(q) . rotate(k), and a rotated key needs no inverse when the query is rotated, too
(QuaRot, arXiv 2404.00456). A width that is no power of two is rotated in blocks of the largest power of two that
divides it; an odd width is left as it is. The signs are bits of SHAKE-128, so they depend on no random generator and
no version of anything. Sums run as butterflies of float32 additions in a fixed order instead of a matrix product, so a
row comes out the same, bit for bit, alone or among others and on any device.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

_SEED = b"kvplan hadamard"


def rotation_block(width: int) -> int:
    """Elements that one rotation mixes: the largest power of two that divides ``width``; 1 means none."""
    return width & -width


def rotate(rows: Tensor) -> Tensor:
    """Rows [..., width] rotated, in float32."""
    return transform(rows.float() * _row_signs(rows))


def unrotate(rows: Tensor) -> Tensor:
    """The inverse of ``rotate``, in float32."""
    return transform(rows) * _row_signs(rows)


def transform(rows: Tensor, block: int = 0) -> Tensor:
    """Rows [..., width] times H / sqrt(n) without signs, in float32: its own inverse.

    ``block`` is a power of two that divides the width; 0 takes the largest. Without signs it is the rotation of
    ExLlamaV3's cache and of vLLM's and LMDeploy's TurboQuant. A constant row stays an outlier.
    """
    block = block or rotation_block(rows.shape[-1])
    if block == 1:
        return rows.float()
    sums = _butterflies(rows.float().unflatten(-1, (-1, block)).movedim(-1, 0))
    return (sums * block**-0.5).movedim(0, -1).flatten(-2)


def rotation_matrix(block: int, device: torch.device) -> Tensor:
    """The orthonormal [block, block] float32 matrix that ``rotate`` multiplies each block of a row by, from the right.

    For kernels that multiply by it; ``block`` is a power of two, as from ``rotation_block``.
    """
    return rotate(torch.eye(block, dtype=torch.float32, device=device))


def _butterflies(elements: Tensor) -> Tensor:
    """H times ``elements`` [n, ...] along the first axis, where every addition runs over whole slabs."""
    half = 1
    while half < elements.shape[0]:
        first, second = elements.unflatten(0, (-1, 2, half)).unbind(1)
        elements = torch.stack([first + second, first - second], dim=1).flatten(0, 2)
        half *= 2
    return elements


def _row_signs(rows: Tensor) -> Tensor:
    """Signs for each element of a row, the same in each block; ones where nothing is rotated."""
    width = rows.shape[-1]
    block = rotation_block(width)
    signs = _signs(block) * (width // block) if block > 1 else (1.0,)
    return torch.tensor(signs, dtype=torch.float32, device=rows.device)


@lru_cache(maxsize=64)
def _signs(count: int) -> tuple[float, ...]:
    """``count`` fixed signs: the bits of SHAKE-128, lowest first."""
    stream = int.from_bytes(hashlib.shake_128(_SEED).digest((count + 7) // 8), "little")
    return tuple(1.0 - 2.0 * (stream >> place & 1) for place in range(count))
