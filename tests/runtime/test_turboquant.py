"""TurboQuant as vLLM and LMDeploy store it, in torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import pytest

torch = pytest.importorskip("torch")

from codec_laws import (  # noqa: E402
    check_everything_stays_finite,
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

from kvplan.core.errors import UnsupportedError  # noqa: E402
from kvplan.runtime.codecs.turboquant import LLOYD_MAX  # noqa: E402
from kvplan.runtime.hadamard import transform  # noqa: E402
from kvplan.runtime.packing import unpack  # noqa: E402

PRESETS = ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc")
FP8_KEY = ("turboquant_k8v4", "key")
SIDES = [(name, part) for name in (*PRESETS, "turbo_quant") for part in ("key", "value") if (name, part) != FP8_KEY]

MAX_1960 = {
    2: [0.4528, 1.510],
    3: [0.2451, 0.7560, 1.344, 2.152],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733],
}
"""J. Max, Quantizing for minimum distortion, IRE Trans. Inform. Theory 6 (1960), table I: output levels."""
DISTORTION = {2: 0.1175, 3: 0.03454, 4: 0.009497}
"""The same table: mean squared error for unit variance."""


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "row_codecs.json").read_text(encoding="utf-8"))


def engine_rows(name: str) -> torch.Tensor:
    rows = torch.frombuffer(bytearray.fromhex(VECTORS["rows"]), dtype=torch.float32).reshape(1, 1, -1, 128)
    return rows[:, :, VECTORS[name]["rows"]]


def bytes_of(digits: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(digits), dtype=torch.uint8).reshape(1, 1, 6, -1)


def neighbours(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of vLLM's rows: nibbles of neighbouring elements, or three bytes for eight codes."""
    return torch.stack([packed & 0xF, packed >> 4], -1).flatten(-2) if bits == 4 else unpack(packed, bits, 128)


def all_levels(bits: int) -> list[float]:
    return [-level for level in reversed(LLOYD_MAX[bits])] + list(LLOYD_MAX[bits])


@every_law(*[(name, part, width) for name, part in SIDES for width in (64, 96, 256)])
def test_the_laws_of_codecs_hold(law: Callable[..., None], name: str, part: str, width: int) -> None:
    law(name, part, width)


@every_law(*[(name, part, width) for name, part in SIDES if name in PRESETS for width in (7, 34, 40)])
def test_the_laws_hold_where_rows_end_in_half_bytes_and_padding(
    law: Callable[..., None], name: str, part: str, width: int
) -> None:
    law(name, part, width)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_are_those_of_max(bits: int) -> None:
    assert LLOYD_MAX[bits] == pytest.approx(MAX_1960[bits], rel=5e-4)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_level_is_the_mean_of_the_gaussian_over_its_cell(bits: int) -> None:
    gaussian = NormalDist()
    levels = all_levels(bits)
    middles = [(low + high) / 2 for low, high in pairwise(levels)]
    for level, low, high in zip(levels, [-40.0, *middles], [*middles, 40.0]):
        mean = (gaussian.pdf(low) - gaussian.pdf(high)) / (gaussian.cdf(high) - gaussian.cdf(low))
        assert mean == pytest.approx(level, abs=2e-7)


@pytest.mark.parametrize(
    ("name", "part", "bits"),
    [("turboquant_4bit_nc", "key", 4), ("turboquant_3bit_nc", "key", 3), ("turbo_quant", "value", 2)],
)
def test_the_error_over_random_directions_is_the_quantizers_distortion(name: str, part: str, bits: int) -> None:
    rows = normal_rows(128, tokens=256)
    assert relative_error(name, part, rows) ** 2 == pytest.approx(DISTORTION[bits], rel=0.05)


def test_the_residuals_sign_makes_four_bit_keys_better_than_three_bits_and_worse_than_sixteen_levels() -> None:
    rows = normal_rows(128, tokens=256)
    three, signed, four = (
        relative_error(name, "key", rows) for name in ("turboquant_3bit_nc", "turbo_quant", "turboquant_4bit_nc")
    )
    assert four < signed < 0.65 * three


def test_more_bits_are_never_worse_in_any_row() -> None:
    rows = normal_rows(128, tokens=64)

    def errors(name: str, part: str) -> torch.Tensor:
        return (rows - round_trip(name, part, rows)).norm(dim=-1)

    assert (errors("turboquant_k8v4", "key") < errors("turboquant_4bit_nc", "key")).all()
    assert (errors("turboquant_4bit_nc", "key") < errors("turboquant_3bit_nc", "key")).all()
    assert (errors("turboquant_4bit_nc", "value") < errors("turboquant_3bit_nc", "value")).all()
    assert (errors("turboquant_3bit_nc", "key") < errors("turbo_quant", "value")).all()


@pytest.mark.parametrize("name", ["turboquant_4bit_nc", "turboquant_3bit_nc"])
def test_norm_correction_keeps_the_length_of_every_row(name: str) -> None:
    rows = normal_rows(128) * torch.logspace(-2, 3, 16)[:, None]
    lengths = round_trip(name, "key", rows).norm(dim=-1)
    torch.testing.assert_close(lengths, rows.norm(dim=-1), rtol=2**-10, atol=0)


def test_a_direction_at_the_levels_themselves_comes_back_exactly() -> None:
    levels = torch.tensor(all_levels(3))
    codes = (torch.randn(128, 1, generator=torch.Generator().manual_seed(3)) - levels).abs().argmin(-1)
    direction = levels[codes] / levels[codes].norm()
    rows = transform(16.0 * direction).reshape(1, 1, 1, 128)
    stored = encoded("turboquant_3bit_nc", "key", rows)
    assert torch.equal(unpack(stored["codes"], 3, 128).flatten(), codes.to(torch.uint8))
    assert stored["norm"].item() == pytest.approx(16.0, rel=2**-10)
    torch.testing.assert_close(round_trip("turboquant_3bit_nc", "key", rows), rows, rtol=1e-3, atol=1e-3)


def test_three_bit_codes_are_a_dense_stream_of_three_bytes_for_eight() -> None:
    rows = torch.arange(8.0).reshape(1, 1, 1, 8)  # minimum 0 and step 1, so value i has code i
    stored = encoded("turboquant_3bit_nc", "value", rows)
    packed = sum(code << (3 * code) for code in range(8))
    assert stored["codes"].flatten().tolist() == list(packed.to_bytes(3, "little"))
    assert (stored["scale"].item(), stored["zero"].item()) == (1.0, 0.0)


def test_turbo_quant_keys_hold_a_level_and_the_sign_of_what_it_leaves() -> None:
    rows = normal_rows(64, batch=1, heads=1, tokens=1)
    stored = encoded("turbo_quant", "key", rows)
    codes = unpack(stored["codes"], 4, 64).int()
    unit = transform(rows / rows.norm()) * math.sqrt(64)
    left = unit - torch.tensor(all_levels(3))[codes & 7]
    assert torch.equal(codes >> 3, (left >= 0).int())
    assert stored["residual"].item() == pytest.approx(left.norm().item() / 64, rel=1e-3)


@pytest.mark.parametrize(("name", "steps"), [("turboquant_4bit_nc", 15), ("turboquant_3bit_nc", 7)])
def test_values_are_within_half_a_step_and_the_rounding_of_scale_and_zero(name: str, steps: int) -> None:
    rows = normal_rows(128) + 2
    extent = rows.amax(-1, keepdim=True) - rows.amin(-1, keepdim=True)
    bound = extent / (2 * steps) + (extent + rows.abs().amax(-1, keepdim=True)) * 2**-11
    assert ((rows - round_trip(name, "value", rows)).abs() <= bound).all()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("value", [0.75, -3.0, 1000.0])
def test_constant_values_are_exact(name: str, value: float) -> None:
    rows = torch.full((1, 1, 2, 64), value)
    assert torch.equal(round_trip(name, "value", rows), rows)


@pytest.mark.parametrize("law", [check_price, check_rows_stand_alone, check_zeros, check_everything_stays_finite])
def test_the_laws_that_need_no_scale_hold_for_fp8_keys(law: Callable[..., None]) -> None:
    law(*FP8_KEY, 96)


@pytest.mark.parametrize("name", ["turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc"])
@pytest.mark.parametrize("part", ["key", "value"])
def test_codes_norms_scales_and_zeros_are_those_of_vllms_store_kernel(name: str, part: str) -> None:
    expected = bytes_of(VECTORS["turboquant"]["formats"][name][part])
    bits = 3 if name == "turboquant_3bit_nc" or (name, part) == ("turboquant_k3v4_nc", "key") else 4
    stored = encoded(name, part, engine_rows("turboquant"))
    codes, metadata = expected.split([16 * bits, expected.shape[-1] - 16 * bits], dim=-1)
    assert torch.equal(unpack(stored["codes"], bits, 128), neighbours(codes, bits))
    ours = torch.cat([stored[field] for field in ("norm", "scale", "zero") if field in stored], dim=-1)
    assert torch.equal(ours, metadata.contiguous().view(torch.float16))


def test_codes_and_norms_are_those_of_lmdeploys_fill_kernel() -> None:
    expected = VECTORS["turbo_quant"]
    rows = engine_rows("turbo_quant")
    key, value = encoded("turbo_quant", "key", rows), encoded("turbo_quant", "value", rows)
    assert torch.equal(key["codes"], bytes_of(expected["key"]))
    assert torch.equal(value["codes"], bytes_of(expected["value"]))
    key_scales = bytes_of(expected["key_scales"]).view(torch.float32)
    torch.testing.assert_close(
        torch.cat([key["norm"], key["residual"]], -1).float(), key_scales, rtol=2**-10, atol=1e-6
    )
    value_scales = bytes_of(expected["value_scales"]).view(torch.float32)
    torch.testing.assert_close(value["norm"].float(), value_scales, rtol=2**-10, atol=1e-6)


def test_fp8_keys_are_torchs_cast_and_saturate() -> None:
    rows = normal_rows(64)
    assert torch.equal(round_trip("turboquant_k8v4", "key", rows), rows.to(torch.float8_e4m3fn).float())
    far = torch.full((1, 1, 1, 64), -1e6)
    assert torch.equal(round_trip("turboquant_k8v4", "key", far), torch.full_like(far, -448.0))


def test_rows_come_back_in_their_own_basis() -> None:
    rows = torch.zeros(1, 1, 1, 128)
    rows[..., 5] = 10.0
    assert round_trip("turboquant_4bit_nc", "key", rows).argmax() == 5
    assert round_trip("turbo_quant", "value", rows).argmax() == 5


def test_lmdeploys_widths_are_whole_bytes() -> None:
    with pytest.raises(UnsupportedError, match="4"):
        codec_of("turbo_quant", "value", 66)
