"""The rotation is orthonormal, the same everywhere, and spreads outliers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from kvplan.runtime.hadamard import rotate, rotation_block, rotation_matrix, transform, unrotate  # noqa: E402

WIDTHS = (1, 2, 3, 64, 80, 96, 127, 128, 192, 256, 512, 576)


def rows_of(width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 5, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", WIDTHS)
def test_unrotate_is_the_inverse_of_rotate(width: int) -> None:
    rows = rows_of(width)
    torch.testing.assert_close(unrotate(rotate(rows)), rows, atol=1e-5, rtol=0)
    torch.testing.assert_close(transform(transform(rows)), rows, atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", WIDTHS)
def test_rotation_leaves_scores_unchanged(width: int) -> None:
    queries, keys = rows_of(width, 1), rows_of(width, 2)
    scores = (queries @ keys.transpose(-1, -2)) / width**0.5
    rotated = (rotate(queries) @ rotate(keys).transpose(-1, -2)) / width**0.5
    torch.testing.assert_close(rotated, scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "block"), [(128, 128), (96, 32), (80, 16), (576, 64), (3, 1), (1, 1)])
def test_blocks_are_the_largest_power_of_two_that_divides_the_width(width: int, block: int) -> None:
    assert rotation_block(width) == block
    impulse = torch.zeros(width)
    impulse[-1] = 1
    assert torch.count_nonzero(rotate(impulse)) == block
    torch.testing.assert_close(rotate(impulse)[-block:].abs(), torch.full((block,), block**-0.5))


def test_the_transform_is_sylvesters_matrix() -> None:
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    eight = torch.kron(torch.kron(two, two), two)
    assert torch.equal(transform(torch.eye(8)), eight * 8**-0.5)
    assert torch.equal(transform(torch.eye(8), block=4)[:4, :4], torch.kron(two, two) / 2)


def test_signs_are_bits_of_shake_128_whatever_torch_draws() -> None:
    """First 16 bits of SHAKE-128(b"kvplan hadamard"), lowest first, as hashlib gives them; 1 is a minus."""
    import hashlib

    first = int.from_bytes(hashlib.shake_128(b"kvplan hadamard").digest(2), "little")
    expected = [1.0 - 2.0 * (first >> place & 1) for place in range(16)]
    assert rotation_matrix(16, torch.device("cpu"))[:, 0].sign().tolist() == expected
    before = rotate(rows_of(128))
    torch.manual_seed(1234)
    assert torch.equal(rotate(rows_of(128)), before)


def test_the_matrix_is_orthonormal_and_does_what_rotate_does() -> None:
    matrix = rotation_matrix(64, torch.device("cpu"))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(64), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows_of(64) @ matrix, rotate(rows_of(64)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [64, 96, 512])
def test_a_row_is_rotated_alike_alone_and_among_others(width: int) -> None:
    rows = rows_of(width)
    assert torch.equal(rotate(rows)[1, 2, 4], rotate(rows[1, 2, 4]))


def test_an_outlier_is_spread_over_its_row() -> None:
    rows = torch.zeros(1, 128)
    rows[0, 17] = 100.0
    assert rotate(rows).abs().amax().item() == pytest.approx(100 / 128**0.5)


def test_half_precision_rows_are_rotated_in_float32() -> None:
    rows = rows_of(128).to(torch.bfloat16)
    assert rotate(rows).dtype == torch.float32
    assert torch.equal(rotate(rows), rotate(rows.float()))
    assert rotate(rows_of(3).to(torch.bfloat16)).dtype == torch.float32
