"""NVFP4, the OCP microscaling formats, SGLang's block-16 FP4 and vLLM's UltraQuant in torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from codec_laws import block_peaks, codec_of, encoded, every_law, normal_rows, relative_error, round_trip  # noqa: E402

from kvplan.core.errors import UnsupportedError  # noqa: E402
from kvplan.runtime.hadamard import transform  # noqa: E402
from kvplan.runtime.minifloats import (  # noqa: E402
    Ties,
    decode_e2m1,
    decode_e8m0,
    encode_e2m1,
    encode_e8m0,
    ties_away,
    ties_down,
    ties_to_even,
)
from kvplan.runtime.packing import unpack  # noqa: E402

FORMATS = ("nvfp4", "mxfp4", "mxfp8", "fp4_mx_block16", "ultraquant_4bit")
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "row_codecs.json").read_text(encoding="utf-8"))
CONSTANT_ROW = 3
"""Of the vectors: rotated, it is one number and rounding noise, which differs from one matrix product to another."""
LEVELS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
"""OCP Microscaling Formats 1.0, table 5: all sixteen codes of E2M1."""


def floats(digits: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(digits), dtype=torch.float32).reshape(1, 1, -1, VECTORS["width"])


def one_block(first: list[float], width: int = 32) -> torch.Tensor:
    return torch.tensor([*first, *[0.0] * (width - len(first))]).reshape(1, 1, 1, width)


def codes_of(values: list[float], ties: Ties) -> list[int]:
    return encode_e2m1(torch.tensor(values), ties).tolist()


@every_law(*[(name, "key", width) for name in FORMATS for width in (32, 128, 192)])
def test_the_laws_of_codecs_hold(law: Callable[..., None], name: str, part: str, width: int) -> None:
    law(name, part, width)


def test_e2m1_has_the_sixteen_values_of_the_specification() -> None:
    assert decode_e2m1(torch.arange(16, dtype=torch.uint8)).tolist() == LEVELS


@pytest.mark.parametrize("ties", [ties_to_even, ties_away, ties_down])
def test_every_e2m1_value_keeps_its_code_and_zero_is_positive(ties: Ties) -> None:
    assert codes_of(LEVELS, ties) == [*range(8), 0, *range(9, 16)]


MIDDLES = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]


@pytest.mark.parametrize(
    ("ties", "above", "below"),
    [
        (ties_to_even, [0, 2, 2, 4, 4, 6, 6], [0, 10, 10, 12, 12, 14, 14]),
        (ties_away, [1, 2, 3, 4, 5, 6, 7], [9, 10, 11, 12, 13, 14, 15]),
        (ties_down, [0, 1, 2, 3, 4, 5, 6], [9, 10, 11, 12, 13, 14, 15]),
    ],
)
def test_halfway_values_follow_each_engines_rule(ties: Ties, above: list[int], below: list[int]) -> None:
    assert codes_of(MIDDLES, ties) == above
    assert codes_of([-value for value in MIDDLES], ties) == below


@pytest.mark.parametrize("ties", [ties_to_even, ties_away, ties_down])
def test_a_hair_off_the_middle_goes_to_the_nearer_level_whatever_the_ties(ties: Ties) -> None:
    assert codes_of([value * (1 + 2**-20) for value in MIDDLES], ties) == [1, 2, 3, 4, 5, 6, 7]
    assert codes_of([value * (1 - 2**-20) for value in MIDDLES], ties) == [0, 1, 2, 3, 4, 5, 6]


def test_e2m1_saturates() -> None:
    assert codes_of([6.1, 1e30, float("inf"), -7.0, -float("inf")], ties_to_even) == [7, 7, 7, 15, 15]


def test_e8m0_is_a_power_of_two_in_a_byte_and_clamps() -> None:
    assert decode_e8m0(torch.tensor([0, 1, 126, 127, 128, 254], dtype=torch.uint8)).tolist() == [
        *(2.0**-127, 2.0**-126, 0.5, 1.0, 2.0, 2.0**127)
    ]
    assert encode_e8m0(torch.tensor([-200, -127, 0, 127, 200])).tolist() == [0, 0, 127, 254, 254]


def test_e8m0_agrees_with_torch_on_every_number() -> None:
    e8m0 = getattr(torch, "float8_e8m0fnu", None)
    if e8m0 is None:
        pytest.skip("torch before 2.7 has no E8M0")
    every = torch.arange(255, dtype=torch.uint8)
    assert torch.equal(decode_e8m0(every), every.view(e8m0).float())


def test_nvfp4_scales_are_torchs_e4m3_of_a_sixth_of_the_peak() -> None:
    rows = normal_rows(64)
    peaks = rows.unflatten(-1, (-1, 16)).abs().amax(-1)
    assert torch.equal(encoded("nvfp4", "key", rows)["scale"].float(), (peaks / 6).to(torch.float8_e4m3fn).float())


def test_nvfp4_reaches_2688_and_no_further() -> None:
    rows = one_block([2688.0, 5000.0, -5000.0])
    assert round_trip("nvfp4", "key", rows)[..., :3].flatten().tolist() == [2688.0, 2688.0, -2688.0]


@pytest.mark.parametrize(
    ("name", "peak", "byte", "back"),
    [
        ("mxfp4", 6.0, 127, 6.0),
        ("mxfp4", 7.9, 127, 6.0),  # OCP's scale is floor(log2) - 2, so up to 8 saturates
        ("mxfp4", 8.0, 128, 8.0),
        ("mxfp4", 0.75, 124, 0.75),
        ("mxfp8", 448.0, 127, 448.0),
        ("mxfp8", 511.0, 127, 448.0),
        ("mxfp8", 512.0, 128, 512.0),
        ("fp4_mx_block16", 6.0, 127, 6.0),
        ("fp4_mx_block16", 6.5, 128, 6.0),  # SGLang's scale covers the peak: 6.5 / 2 = 3.25 is nearest to 3
        ("ultraquant_4bit", 0.0, 0, 0.0),
    ],
)
def test_the_scale_byte_of_a_peak(name: str, peak: float, byte: int, back: float) -> None:
    rows = one_block([peak])
    assert encoded(name, "key", rows)["scale"].flatten()[0] == byte
    assert round_trip(name, "key", rows).flatten()[0] == back


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "mxfp8", "fp4_mx_block16"])
@pytest.mark.parametrize("factor", [0.25, 1.0, 16.0])
def test_what_the_elements_can_be_is_exact(name: str, factor: float) -> None:
    rows = one_block(LEVELS + LEVELS) * factor
    assert torch.equal(round_trip(name, "key", rows), rows)


def bytes_of(digits: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(digits), dtype=torch.uint8).reshape(1, 1, VECTORS["rows_count"], -1)


def test_block16_codes_scales_and_values_are_sglangs() -> None:
    expected = VECTORS["fp4_mx_block16"]
    rows = floats(VECTORS["rows"])
    stored = encoded("fp4_mx_block16", "key", rows)
    theirs = bytes_of(expected["codes"])
    assert torch.equal(stored["scale"], bytes_of(expected["scales"]))
    assert torch.equal(unpack(stored["codes"], 4, 128), torch.where(theirs == 8, 0, theirs))  # SGLang has -0
    assert torch.equal(round_trip("fp4_mx_block16", "key", rows), floats(expected["decoded"]))


def test_ultraquant_codes_scales_and_values_are_vllms() -> None:
    expected = VECTORS["ultraquant_4bit"]
    varied = [row for row in range(VECTORS["rows_count"]) if row != CONSTANT_ROW]
    rows = floats(VECTORS["rows"])[:, :, varied]
    stored = encoded("ultraquant_4bit", "key", rows)
    assert torch.equal(stored["scale"], bytes_of(expected["scales"])[:, :, varied])
    assert torch.equal(unpack(stored["codes"], 4, 128), bytes_of(expected["codes"])[:, :, varied])
    rotated = transform(round_trip("ultraquant_4bit", "key", rows))  # the engine leaves rows rotated
    torch.testing.assert_close(rotated, floats(expected["decoded"])[:, :, varied], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "block", "bound"),
    [
        ("nvfp4", 16, 1 / 6 + 1 / 64),  # half of the widest step, 2 x scale, and the scale's rounding
        ("mxfp4", 32, 1 / 4),  # (8 - 6) / 8
        ("mxfp8", 32, 1 / 8),  # (512 - 448) / 512
        ("fp4_mx_block16", 16, 1 / 5),  # a peak of 5 + at the widest step
    ],
)
def test_an_error_is_bounded_by_a_part_of_its_blocks_peak(name: str, block: int, bound: float) -> None:
    rows = normal_rows(128, tokens=64)
    assert ((rows - round_trip(name, "key", rows)).abs() <= block_peaks(rows, block) * bound).all()


def test_more_bits_and_finer_scales_are_never_worse_over_gaussian_rows() -> None:
    rows = normal_rows(128, tokens=64)
    errors = {name: relative_error(name, "key", rows) for name in FORMATS}
    assert errors["mxfp8"] < 0.03 < errors["nvfp4"] < errors["fp4_mx_block16"]
    assert errors["nvfp4"] < errors["mxfp4"] < 0.13
    assert errors["ultraquant_4bit"] < 0.14


def test_widths_that_blocks_do_not_divide_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="16"):
        codec_of("nvfp4", "key", 24)
    with pytest.raises(UnsupportedError, match="32"):
        codec_of("mxfp8", "key", 80)
