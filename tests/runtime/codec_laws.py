"""What every codec of rows must satisfy, whatever its format; imported by the tests of each file of codecs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvplan.core.format import PartFormat, RowFormat
from kvplan.core.part import Part
from kvplan.formats import get_format
from kvplan.runtime.codec import RowCodec, Rows, nbytes
from kvplan.runtime.codecs import row_codec

INF, NAN = float("inf"), float("nan")


def codec_of(name: str, part: str, width: int) -> RowCodec:
    """The codec of a part's rows in the format ``name``."""
    found = get_format(name)
    assert isinstance(found, RowFormat | PartFormat)
    return row_codec(found.part_format(Part(name=part, num_heads=1, width=width)), width)


def normal_rows(width: int, *, tokens: int = 16, batch: int = 2, heads: int = 2, seed: int = 0) -> Tensor:
    """Gaussian rows [batch, heads, tokens, width]."""
    return torch.randn(batch, heads, tokens, width, generator=torch.Generator().manual_seed(seed))


def encoded(name: str, part: str, rows: Tensor) -> Rows:
    """The stored tensors of rows."""
    codec = codec_of(name, part, rows.shape[-1])
    return codec.encode(rows, codec.calibrate(rows))


def round_trip(name: str, part: str, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows as they come back."""
    codec = codec_of(name, part, rows.shape[-1])
    fixed = codec.calibrate(rows)
    return codec.decode(codec.encode(rows, fixed), fixed, dtype)


def relative_error(name: str, part: str, rows: Tensor) -> float:
    """Root of the squared error over the squared rows."""
    return float((rows - round_trip(name, part, rows)).norm() / rows.norm())


def block_peaks(rows: Tensor, block: int) -> Tensor:
    """The largest magnitude of each element's block, [..., width]."""
    return rows.unflatten(-1, (-1, block)).abs().amax(-1, keepdim=True).expand(-1, -1, -1, -1, block).flatten(-2)


def check_price(name: str, part: str, width: int) -> None:
    """The bytes of all tensors are what the calculator prices, for several batches, heads and lengths."""
    found = get_format(name)
    for batch, heads, tokens in ((1, 1, 1), (3, 2, 5), (2, 8, 17)):
        rows = torch.randn(batch, heads, tokens, width)
        stored = encoded(name, part, rows)
        price = found.stored_bytes(Part(name=part, num_heads=heads, width=width), tokens)
        assert nbytes(stored) == price * batch
        assert all(tensor.shape[:3] == (batch, heads, tokens) for tensor in stored.values())


def check_rows_stand_alone(name: str, part: str, width: int) -> None:
    """A token's tensors do not depend on the other tokens, and rows in bfloat16 are coded as the floats they are."""
    rows = normal_rows(width).bfloat16()
    together = encoded(name, part, rows.float())
    halves = [encoded(name, part, half) for half in rows.split(8, dim=2)]
    for field, tensor in together.items():
        joined = torch.cat([half[field] for half in halves], dim=2)
        assert torch.equal(joined.view(torch.uint8), tensor.view(torch.uint8)), field


def check_zeros(name: str, part: str, width: int) -> None:
    """Zeros are exact."""
    assert torch.equal(round_trip(name, part, torch.zeros(1, 1, 2, width)), torch.zeros(1, 1, 2, width))


def check_nan_is_zero_and_infinity_the_largest(name: str, part: str, width: int) -> None:
    """NaN is coded as 0 and an infinity as its row's largest finite magnitude."""
    rows = normal_rows(width)
    rows[..., 0], rows[..., 1], rows[..., 2] = NAN, INF, -INF
    largest = rows[..., 3:].abs().amax(-1)
    plain = rows.clone()
    plain[..., 0], plain[..., 1], plain[..., 2] = 0.0, largest, -largest
    assert torch.equal(round_trip(name, part, rows), round_trip(name, part, plain))


def check_everything_stays_finite(name: str, part: str, width: int) -> None:
    """No input gives NaN or infinity in any dtype: huge, tiny, all NaN, all infinite, the ends of fp16 and bfloat16."""
    values = torch.tensor([NAN, INF, -INF, 65504.0, -65504.0, 3.3e38, -3.3e38, 1e-40, 6e-8, 1e5, -0.0])
    constant = values[:, None].expand(-1, width)
    mixed = values[torch.arange(width) % len(values)][None]
    opposite = torch.where(torch.arange(width) % 2 == 0, 3.3e38, -3.3e38)[None]
    rows = torch.cat([constant, mixed, opposite])[None, None]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert round_trip(name, part, rows, dtype).isfinite().all()
        assert round_trip(name, part, rows, dtype).dtype == dtype


LAWS = (
    check_price,
    check_rows_stand_alone,
    check_zeros,
    check_nan_is_zero_and_infinity_the_largest,
    check_everything_stays_finite,
)


def every_law(*cases: tuple[str, str, int]) -> pytest.MarkDecorator:
    """Parametrizes ``law, name, part, width`` over all laws and cases."""
    return pytest.mark.parametrize(
        ("law", "name", "part", "width"),
        [
            pytest.param(law, *case, id=f"{law.__name__}-{case[0]}-{case[1]}-{case[2]}")
            for law in LAWS
            for case in cases
        ],
    )
