"""Rows in integers and in floats: prices, error bounds, layouts, and torch's own casts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from codec_laws import (  # noqa: E402
    check_price,
    check_rows_stand_alone,
    check_zeros,
    codec_of,
    encoded,
    every_law,
    normal_rows,
    relative_error,
    round_trip,
)

from kvplan.core.part import Part  # noqa: E402
from kvplan.formats import get_format  # noqa: E402
from kvplan.runtime.codec import nbytes  # noqa: E402
from kvplan.runtime.codecs.integer_rows import split_scale  # noqa: E402
from kvplan.runtime.group_store import GroupStore  # noqa: E402
from kvplan.runtime.hadamard import rotate  # noqa: E402
from kvplan.runtime.packing import unpack  # noqa: E402

PER_ROW = ("int8_per_token_head", "int4_per_token_head", "fp8_per_token_head")
PER_TENSOR = ("int8_per_tensor", "int4_per_tensor")
CASTS = ("bf16", "fp16", "fp32")
WIDTHS = (5, 7, 64, 80, 96, 128, 576)
FP8 = {"fp8_e4m3": (torch.float8_e4m3fn, 448.0), "fp8_e5m2": (torch.float8_e5m2, 57344.0)}


def every_bfloat16() -> torch.Tensor:
    """All 65536 bit patterns as one row."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).reshape(1, 1, 1, -1)


@every_law(*[(name, "key", width) for name in PER_ROW for width in WIDTHS])
def test_the_laws_of_codecs_hold_for_rows_with_a_scale(
    law: Callable[..., None], name: str, part: str, width: int
) -> None:
    law(name, part, width)


@pytest.mark.parametrize("law", [check_price, check_rows_stand_alone, check_zeros])
@pytest.mark.parametrize("name", [*CASTS, *FP8])
@pytest.mark.parametrize("part", ["key", "value", "latent", "index"])
@pytest.mark.parametrize("width", [1, 80, 128, 192])
def test_floats_take_their_price_and_stand_alone(law: Callable[..., None], name: str, part: str, width: int) -> None:
    law(name, part, width)


@pytest.mark.parametrize("name", PER_TENSOR)
@pytest.mark.parametrize(("batch", "heads", "tokens", "width"), [(1, 1, 1, 1), (3, 2, 5, 7), (2, 8, 17, 128)])
def test_one_scale_for_a_tensor_takes_four_bytes_of_each_sequence(
    name: str, batch: int, heads: int, tokens: int, width: int
) -> None:
    rows = normal_rows(width, tokens=tokens, batch=batch, heads=heads)
    codec = codec_of(name, "key", width)
    fixed = codec.calibrate(rows)
    price = get_format(name).stored_bytes(Part(name="key", num_heads=heads, width=width), tokens)
    assert nbytes(fixed) == 4 * batch
    assert nbytes(codec.encode(rows, fixed)) + nbytes(fixed) == batch * price


@pytest.mark.parametrize("name", CASTS)
def test_sixteen_and_more_bits_change_nothing(name: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
    rows = normal_rows(128).to(dtype)
    rows[..., 0], rows[..., 1] = float("nan"), float("inf")
    assert torch.equal(round_trip(name, "key", rows, dtype).view(torch.uint8), rows.view(torch.uint8))
    assert encoded(name, "key", rows)["codes"].data_ptr() != rows.data_ptr()


def test_casts_to_a_narrower_range_saturate() -> None:
    rows = torch.tensor([1e5, -1e38, 1.0, 0.0]).reshape(1, 1, 1, 4)
    assert round_trip("fp16", "key", rows).flatten().tolist() == [65504.0, -65504.0, 1.0, 0.0]


@pytest.mark.parametrize("name", FP8)
def test_fp8_codes_are_torchs_own_casts_bit_for_bit(name: str) -> None:
    fp8, largest = FP8[name]
    rows = every_bfloat16()
    rows = rows[rows.abs() <= largest].reshape(1, 1, 1, -1)
    assert rows.numel() > 30000
    codes = encoded(name, "key", rows)["codes"]
    assert torch.equal(codes.view(torch.uint8), rows.to(fp8).view(torch.uint8))
    assert torch.equal(round_trip(name, "key", rows), rows.to(fp8).float())


@pytest.mark.parametrize("name", FP8)
def test_fp8_saturates_and_makes_nan_zero(name: str) -> None:
    largest = FP8[name][1]
    decoded = round_trip(name, "key", every_bfloat16()).flatten()
    rows = every_bfloat16().float().flatten()
    assert decoded.isfinite().all()
    assert (decoded[rows.isnan()] == 0).all()
    assert (decoded[rows > largest] == largest).all()
    assert (decoded[rows < -largest] == -largest).all()


@pytest.mark.parametrize("name", FP8)
def test_a_static_fp8_scale_divides_before_and_multiplies_after(name: str) -> None:
    rows = normal_rows(64) * 1000
    codec = codec_of(name, "key", 64)
    codec.scale = 8.0
    plain = codec_of(name, "key", 64)
    stored = codec.encode(rows, {})
    assert torch.equal(stored["codes"].float(), plain.encode(rows / 8, {})["codes"].float())
    assert torch.equal(codec.decode(stored, {}, torch.float32), stored["codes"].float() * 8)


@pytest.mark.parametrize("name", FP8)
@pytest.mark.parametrize(("width", "scales"), [(64, 1), (128, 1), (192, 2), (320, 3)])
def test_fp8_index_keys_are_e4m3_with_a_scale_for_128_elements(name: str, width: int, scales: int) -> None:
    rows = normal_rows(width) * 1000
    stored = encoded(name, "index", rows)
    assert stored["codes"].dtype == torch.float8_e4m3fn
    assert stored["scale"].shape == (2, 2, 16, scales)
    first, last = rows[..., :128].abs().amax(-1), rows[..., (scales - 1) * 128 :].abs().amax(-1)
    torch.testing.assert_close(stored["scale"][..., 0], first / 448)
    torch.testing.assert_close(stored["scale"][..., -1], last / 448)
    assert relative_error(name, "index", rows) < 2**-4


def test_index_keys_of_128_take_132_bytes() -> None:
    """vLLM 0.33 ``deepseek_v2.py:655``."""
    assert nbytes(encoded("fp8_e4m3", "index", normal_rows(128, tokens=1, batch=1, heads=1))) == 132


def test_int8_rows_err_by_at_most_half_a_scale() -> None:
    rows = normal_rows(128) * torch.logspace(-6, 6, 16)[:, None]
    scale = rows.abs().amax(-1, keepdim=True) / 127
    stored = encoded("int8_per_token_head", "key", rows)
    assert stored["codes"].dtype == torch.int8
    assert stored["codes"].amin() >= -127
    torch.testing.assert_close(stored["scale"], scale, rtol=1e-6, atol=0)
    assert ((round_trip("int8_per_token_head", "key", rows) - rows).abs() <= scale * 0.50001).all()


def test_fp8_rows_err_by_a_sixteenth_or_half_the_smallest_step() -> None:
    rows = normal_rows(128) * torch.logspace(-6, 6, 16)[:, None]
    smallest = 2.0**-9 * rows.abs().amax(-1, keepdim=True) / 448
    error = (round_trip("fp8_per_token_head", "key", rows) - rows).abs()
    assert (error <= torch.maximum(rows.abs() / 16, smallest / 2) * 1.00001).all()


@pytest.mark.parametrize("width", [7, 80, 128])
def test_int4_rows_err_by_at_most_half_a_scale_after_rotation(width: int) -> None:
    rows = normal_rows(width) * torch.logspace(-6, 6, 16)[:, None]
    rotated = rotate(rows)
    span = rotated.amax(-1, keepdim=True).clamp(min=0) - rotated.amin(-1, keepdim=True).clamp(max=0)
    error = rotate(round_trip("int4_per_token_head", "key", rows)) - rotated
    assert (error.abs() <= span / 15 * 0.501).all()


def test_int4_hides_its_zero_point_in_the_scale() -> None:
    """vLLM 0.33 ``ops/int4_per_token_head.py``: zero in the low 4 mantissa bits, and the rest of the scale codes."""
    rows = normal_rows(96)
    rotated = rotate(rows)
    low, high = rotated.amin(-1, keepdim=True), rotated.amax(-1, keepdim=True)
    stored = encoded("int4_per_token_head", "key", rows)
    scale, zero = split_scale(stored["scale"])
    assert stored["scale"].dtype == torch.float32
    torch.testing.assert_close(scale, (high - low) / 15, rtol=2**-18, atol=0)
    assert torch.equal(zero, (-low / scale).round())
    codes = ((rotated / scale).round() + zero).clamp(0, 15)
    assert torch.equal(unpack(stored["codes"], 4, 96).float(), codes)
    assert torch.equal(stored["codes"] & 15, codes[..., :48].to(torch.uint8))
    assert torch.equal(stored["codes"] >> 4, codes[..., 48:].to(torch.uint8))


def test_the_plain_scheme_divides_by_127_or_7_and_clamps() -> None:
    rows = torch.tensor([-6.35, 6.35, 0.05, 3.0]).reshape(1, 1, 1, 4)
    int8, int4 = codec_of("int8_per_tensor", "key", 4), codec_of("int4_per_tensor", "key", 4)
    assert int8.calibrate(rows)["scale"].item() == pytest.approx(0.05)
    assert int8.encode(rows, int8.calibrate(rows))["codes"].flatten().tolist() == [-127, 127, 1, 60]
    fixed = {"scale": torch.ones(1, 1, 1, 1)}
    wide = torch.tensor([-100.0, 100.0, -8.2, 7.4]).reshape(1, 1, 1, 4)
    assert int4.decode(int4.encode(wide, fixed), fixed, torch.float32).flatten().tolist() == [-8.0, 7.0, -8.0, 7.0]
    assert int4.calibrate(torch.full((1, 1, 1, 4), 21.0))["scale"].item() == 3.0


@pytest.mark.parametrize("name", PER_TENSOR)
def test_later_rows_saturate_at_the_scale_of_the_first(name: str) -> None:
    codec = codec_of(name, "key", 16)
    first = normal_rows(16)
    fixed = codec.calibrate(first)
    largest = first.abs().amax(dim=(1, 2, 3), keepdim=True).expand_as(first)
    later = codec.decode(codec.encode(first.abs() + 100, fixed), fixed, torch.float32)
    torch.testing.assert_close(later, largest)


@pytest.mark.parametrize("name", PER_TENSOR)
def test_a_tensor_of_zeros_nan_or_infinity_has_a_finite_scale(name: str) -> None:
    for value in (0.0, float("nan"), float("inf")):
        rows = torch.full((1, 1, 2, 4), value)
        codec = codec_of(name, "key", 4)
        fixed = codec.calibrate(rows)
        assert fixed["scale"].item() == 1.0
        assert torch.equal(codec.decode(codec.encode(rows, fixed), fixed, torch.float32), torch.zeros(1, 1, 2, 4))


@pytest.mark.parametrize("name", PER_TENSOR)
def test_nan_is_zero_and_infinity_the_largest_of_its_row_in_a_tensor_scale(name: str) -> None:
    rows = normal_rows(16)
    fixed = codec_of(name, "key", 16).calibrate(rows)
    damaged = rows.clone()
    damaged[..., 0], damaged[..., 1] = float("nan"), float("-inf")
    mended = damaged.clone()
    mended[..., 0], mended[..., 1] = 0.0, -rows[..., 2:].abs().amax(-1)
    codec = codec_of(name, "key", 16)
    assert torch.equal(codec.encode(damaged, fixed)["codes"], codec.encode(mended, fixed)["codes"])


@pytest.mark.parametrize("name", [*PER_TENSOR, "int8_per_token_head", "fp8_per_token_head", "fp8_e4m3", "fp8_e5m2"])
def test_rounding_what_was_rounded_changes_nothing(name: str) -> None:
    rows = normal_rows(128)
    codec = codec_of(name, "key", 128)
    fixed = codec.calibrate(rows)
    stored = codec.encode(rows, fixed)
    again = codec.encode(codec.decode(stored, fixed, torch.float32), fixed)
    assert torch.equal(again["codes"].view(torch.uint8), stored["codes"].view(torch.uint8))


@pytest.mark.parametrize(
    ("finer", "coarser"),
    [
        ("fp32", "bf16"),
        ("fp16", "fp8_e4m3"),
        ("bf16", "int8_per_token_head"),
        ("fp8_e4m3", "fp8_e5m2"),
        ("int8_per_token_head", "int4_per_token_head"),
        ("int8_per_tensor", "int4_per_tensor"),
        ("int8_per_token_head", "int8_per_tensor"),
        ("int4_per_token_head", "int4_per_tensor"),
    ],
)
def test_more_bits_and_finer_scales_are_never_worse(finer: str, coarser: str) -> None:
    rows = normal_rows(128)
    assert relative_error(finer, "key", rows) < relative_error(coarser, "key", rows)


@pytest.mark.parametrize("value", [3.3, -2e-7, 6e4])
def test_a_constant_row_is_exact_in_eight_bits(value: float) -> None:
    rows = torch.full((1, 1, 1, 80), value)
    for name in ("int8_per_token_head", "fp8_per_token_head", "int8_per_tensor", "int4_per_tensor"):
        torch.testing.assert_close(round_trip(name, "key", rows), rows, rtol=1e-6, atol=0)


def test_rotation_spreads_the_error_that_an_outlier_causes() -> None:
    """The same 15 steps over the row as it is, one group of 128, lose most of the ordinary channels."""
    rows = normal_rows(128)
    rows[..., 5] *= 50
    store = GroupStore(get_format("int_group:group=128"), "key", 128)
    store.append(rows.to(torch.bfloat16))
    ordinary = [channel for channel in range(128) if channel != 5]
    rotated = (round_trip("int4_per_token_head", "key", rows) - rows)[..., ordinary].norm()
    assert rotated < (store.read(torch.float32) - rows)[..., ordinary].norm() / 4
