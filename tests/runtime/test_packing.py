"""Codes take exactly their bits, in a layout that a reference in plain Python spells out."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from kvplan.runtime.packing import pack, packed_bytes, unpack  # noqa: E402

WIDTHS = (0, 1, 2, 3, 5, 7, 8, 9, 13, 31, 64, 80, 96, 127, 128)
ALL_BITS = range(1, 9)


def codes_of(width: int, bits: int, rows: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width * 10 + bits)
    return torch.randint(0, 1 << bits, (2, rows, width), generator=generator)


def reference_bytes(codes: list[int], bits: int) -> list[int]:
    """Lanes for 1, 2, 4 and 8 bits, a little-endian bit stream otherwise."""
    size = -(-len(codes) * bits // 8)
    if 8 % bits:
        stream = sum(code << (place * bits) for place, code in enumerate(codes))
        return list(stream.to_bytes(size, "little"))
    packed = [0] * size
    for place, code in enumerate(codes):
        packed[place % size] |= code << (place // size * bits)
    return packed


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("width", WIDTHS)
def test_codes_come_back_from_exactly_their_bytes(bits: int, width: int) -> None:
    codes = codes_of(width, bits)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, 6, packed_bytes(width, bits))
    assert packed.shape[-1] == -(-width * bits // 8)
    assert torch.equal(unpack(packed, bits, width), codes.to(torch.uint8))


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("width", WIDTHS)
def test_bytes_are_laid_out_as_the_reference_does(bits: int, width: int) -> None:
    codes = codes_of(width, bits, rows=1)
    assert pack(codes, bits)[1, 0].tolist() == reference_bytes(codes[1, 0].tolist(), bits)


def test_four_bits_are_halves_two_bits_quarters_and_three_bits_a_stream() -> None:
    assert pack(torch.tensor([1, 2, 3, 4]), 4).tolist() == [1 | 3 << 4, 2 | 4 << 4]
    assert pack(torch.tensor([3, 0, 1, 2, 2, 1, 0, 3]), 2).tolist() == [3 | 1 << 2 | 2 << 4, 2 << 2 | 1 << 4 | 3 << 6]
    assert pack(torch.tensor([7, 0, 5]), 3).tolist() == [0b01000111, 0b1]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("width", [5, 80, 128])
def test_packed_codes_hold_no_memory_beyond_their_bytes(bits: int, width: int) -> None:
    packed = pack(codes_of(width, bits).float(), bits)
    assert packed.untyped_storage().nbytes() == packed.numel()


def test_codes_of_a_transposed_tensor_pack_alike() -> None:
    codes = codes_of(16, 3).transpose(0, 1)
    assert torch.equal(pack(codes, 3), pack(codes.contiguous(), 3))


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_other_widths_than_one_to_eight_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 8 bits"):
        pack(torch.zeros(8), bits)
    with pytest.raises(ValueError, match="1 to 8 bits"):
        unpack(torch.zeros(8, dtype=torch.uint8), bits, 8)


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 codes of 4 bits take 8 bytes, not 7"):
        unpack(torch.zeros(7, dtype=torch.uint8), 4, 16)
