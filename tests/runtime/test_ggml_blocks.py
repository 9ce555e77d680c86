"""llama.cpp's cache types in torch, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from codec_laws import block_peaks, codec_of, encoded, every_law, normal_rows, relative_error, round_trip  # noqa: E402

from kvplan.core.errors import UnsupportedError  # noqa: E402

FORMATS = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "row_codecs.json").read_text(encoding="utf-8"))
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def floats(digits: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(digits), dtype=torch.float32).reshape(1, 1, -1, VECTORS["width"])


@every_law(*[(name, "key", width) for name in FORMATS for width in (32, 64, 128, 256)])
def test_the_laws_of_codecs_hold(law: Callable[..., None], name: str, part: str, width: int) -> None:
    law(name, part, width)


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_and_values_are_those_of_libggml(name: str) -> None:
    expected = VECTORS["ggml"]["formats"][name]
    rows = floats(VECTORS["rows"])
    assert encoded(name, "key", rows)["blocks"].numpy().tobytes().hex() == expected["stored"]
    assert torch.equal(round_trip(name, "key", rows), floats(expected["decoded"]))


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_and_values_are_those_of_the_gguf_package(name: str) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    kind = gguf.GGMLQuantizationType[name.upper()]
    rows = normal_rows(128, tokens=64) * torch.logspace(-3, 3, 64)[:, None]
    blocks = encoded(name, "key", rows)["blocks"]
    if name != "iq4_nl":  # which gguf reads and does not write
        assert (
            gguf.quants.quantize(rows.reshape(-1, 128).numpy(), kind) == blocks.reshape(-1, blocks.shape[-1]).numpy()
        ).all()
    values = torch.from_numpy(gguf.quants.dequantize(blocks.reshape(-1, blocks.shape[-1]).numpy(), kind))
    assert torch.equal(round_trip(name, "key", rows).reshape(-1, 128), values)


HAND = {  # worked out from the layouts in ggml-common.h; d and m are 1.0 (00 3c), 0.0 or -16.0 (00 cc)
    "q8_0": ([127, -127, 1, 0] + [0] * 28, "003c 7f810100" + "00" * 28),
    "q4_0": ([-8, 7] + [0] * 30, "003c 808f" + "88" * 14),
    "q4_1": ([*range(16), *range(15, -1, -1)], "003c 0000" + "".join(f"{15 - i:x}{i:x}" for i in range(16))),
    "q5_0": ([*range(-16, 16)], "003c 0000ffff" + "".join(f"{i:x}{i:x}" for i in range(16))),
    "q5_1": ([*range(-16, 16)], "003c 00cc 0000ffff" + "".join(f"{i:x}{i:x}" for i in range(16))),
    "iq4_nl": ([*IQ4_NL, *IQ4_NL], "003c" + "".join(f"{i:x}{i:x}" for i in range(16))),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_block_written_out_by_hand(name: str) -> None:
    values, digits = HAND[name]
    rows = torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 32)
    assert encoded(name, "key", rows)["blocks"].numpy().tobytes() == bytes.fromhex(digits)
    assert torch.equal(round_trip(name, "key", rows), rows)


@pytest.mark.parametrize(("name", "steps"), [("q8_0", 254), ("q4_0", 8), ("q5_0", 16)])
def test_a_symmetric_code_is_within_half_a_step_or_one_at_the_far_end(name: str, steps: int) -> None:
    rows = normal_rows(128)
    bound = block_peaks(rows, 32) * (1 / steps + 2**-11)  # 2**-11: the scale's rounding to fp16
    assert ((rows - round_trip(name, "key", rows)).abs() <= bound).all()


@pytest.mark.parametrize(("name", "steps"), [("q4_1", 15), ("q5_1", 31)])
def test_a_code_with_a_minimum_is_within_half_a_step(name: str, steps: int) -> None:
    rows = normal_rows(128) + 3
    blocks = rows.unflatten(-1, (-1, 32))
    extent = (blocks.amax(-1) - blocks.amin(-1)).repeat_interleave(32, -1)
    bound = extent / (2 * steps) + (extent + block_peaks(rows, 32)) * 2**-11
    assert ((rows - round_trip(name, "key", rows)).abs() <= bound).all()


def test_more_bits_are_never_worse_in_any_row() -> None:
    rows = normal_rows(128, tokens=64)

    def errors(name: str) -> torch.Tensor:
        return (rows - round_trip(name, "key", rows)).norm(dim=-1)

    assert (errors("q8_0") <= errors("q5_1")).all()
    assert (errors("q8_0") <= errors("q5_0")).all()
    assert (errors("q5_1") <= errors("q4_1")).all()
    assert (errors("q5_0") <= errors("q4_0")).all()


def test_the_curved_table_beats_even_steps_of_the_same_bytes_on_gaussian_rows() -> None:
    rows = normal_rows(128, tokens=64)
    assert relative_error("iq4_nl", "key", rows) < relative_error("q4_0", "key", rows) < 0.1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [0.75, -3.0, 1e-3, 240.0])
def test_a_constant_block_is_exact_up_to_the_rounding_of_its_scale(name: str, value: float) -> None:
    rows = torch.full((1, 1, 1, 64), value)
    torch.testing.assert_close(round_trip(name, "key", rows), rows, rtol=2**-10, atol=1e-6)


def test_a_width_that_blocks_do_not_divide_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="32"):
        codec_of("q8_0", "key", 80)
