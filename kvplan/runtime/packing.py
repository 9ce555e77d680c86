"""Integer codes of 1 to 8 bits as bytes, along the last axis: ``width`` codes take exactly cdiv(width * bits, 8) bytes.

Widths that divide a byte (1, 2, 4 bits) are packed **strided**: 4-bit codes as halves, byte ``i`` holding element ``i``
in its low and element ``i + width / 2`` in its high nibble; 2-bit codes as quarters, 1-bit codes as eighths. A kernel
then reads neighbouring elements from neighbouring bytes and interleaves nothing. Where the lanes do not divide the
width, they are cdiv(width, lanes) long and the last one is short. 3, 5, 6 and 7 bits are one dense little-endian bit
stream: element ``i`` occupies bits ``i * bits`` to ``(i + 1) * bits - 1``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kvplan.core.units import cdiv


def packed_bytes(width: int, bits: int) -> int:
    """Bytes of ``width`` codes of ``bits`` bits."""
    return cdiv(width * bits, 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """``codes`` [..., width], integers of any dtype in 0 .. 2**bits - 1, as uint8 [..., packed_bytes(width, bits)].

    A code outside that range is the caller's mistake and spoils its neighbours. Raises ValueError on bits outside 1..8.
    """
    _check(bits)
    if bits == 8:
        return codes.to(torch.uint8)
    return _pack_lanes(codes, bits) if 8 % bits == 0 else _pack_stream(codes, bits)


def unpack(packed: Tensor, bits: int, width: int) -> Tensor:
    """The uint8 codes [..., width] of ``packed``, uint8 [..., packed_bytes(width, bits)].

    Raises ValueError on bits outside 1..8 and on a last axis of another length.
    """
    _check(bits)
    if packed.shape[-1] != packed_bytes(width, bits):
        raise ValueError(f"{width} codes of {bits} bits take {packed_bytes(width, bits)} bytes, not {packed.shape[-1]}")
    if bits == 8:
        return packed
    return _unpack_lanes(packed, bits, width) if 8 % bits == 0 else _unpack_stream(packed, bits, width)


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, not {bits}")


def _pack_lanes(codes: Tensor, bits: int) -> Tensor:
    lanes = 8 // bits
    codes = pad(codes.to(torch.uint8), (0, -codes.shape[-1] % lanes))
    first, *others = codes.chunk(lanes, dim=-1)
    packed = first.clone()
    for lane, part in enumerate(others, start=1):
        packed |= part << (lane * bits)
    return packed


def _unpack_lanes(packed: Tensor, bits: int, width: int) -> Tensor:
    lanes = [packed >> shift for shift in range(0, 8, bits)]
    return (torch.cat(lanes, dim=-1) & ((1 << bits) - 1))[..., :width]


def _pack_stream(codes: Tensor, bits: int) -> Tensor:
    """Eight codes make a word of ``bits`` whole bytes."""
    width = codes.shape[-1]
    words = _join(pad(codes, (0, -width % 8)).unflatten(-1, (-1, 8)), bits)
    return _split(words, 8, bits).flatten(-2)[..., : packed_bytes(width, bits)].contiguous()


def _unpack_stream(packed: Tensor, bits: int, width: int) -> Tensor:
    words = _join(pad(packed, (0, -packed.shape[-1] % bits)).unflatten(-1, (-1, bits)), 8)
    return _split(words, bits, 8).flatten(-2)[..., :width]


def _join(digits: Tensor, bits: int) -> Tensor:
    """int64 words [...] of their digits [..., count], least significant first, of ``bits`` bits each."""
    words = digits[..., 0].to(torch.int64)
    for place in range(1, digits.shape[-1]):
        words = words | (digits[..., place].to(torch.int64) << (place * bits))
    return words


def _split(words: Tensor, bits: int, count: int) -> Tensor:
    """The ``count`` digits [..., count] of ``bits`` bits, uint8, of words [...]."""
    mask = (1 << bits) - 1
    return torch.stack([((words >> (place * bits)) & mask).to(torch.uint8) for place in range(count)], dim=-1)
