"""DeepSeek's packed latent rows in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from codec_laws import block_peaks, encoded, every_law, normal_rows, relative_error, round_trip  # noqa: E402

from kvplan.runtime.codec import nbytes  # noqa: E402

CODED = (
    ("fp8_ds_mla", "latent", 512),
    ("fp8_ds_mla", "latent", 448),
    ("fp8_ds_mla", "index", 128),
    ("nvfp4_ds_mla", "latent", 512),
    ("nvfp4_ds_mla", "index", 128),
)


@every_law(*CODED)
def test_the_laws_of_codecs_hold(law: Callable[..., None], name: str, part: str, width: int) -> None:
    law(name, part, width)


@pytest.mark.parametrize(
    ("name", "widths", "expected"),
    [  # vLLM 0.33 flashmla_sparse.py, the note on formats; deepseek_v4/attention.py for index keys
        ("fp8_ds_mla", {"latent": 512, "rope": 64}, 656),
        ("fp8_ds_mla", {"latent": 448, "rope": 64}, 584),
        ("nvfp4_ds_mla", {"latent": 512, "rope": 64}, 352),
        ("fp8_ds_mla", {"index": 128}, 132),
        ("nvfp4_ds_mla", {"index": 128}, 132),
    ],
)
def test_a_tokens_parts_are_as_large_as_the_engines_record(name: str, widths: dict[str, int], expected: int) -> None:
    parts = [encoded(name, part, torch.randn(1, 1, 1, width)) for part, width in widths.items()]
    assert sum(nbytes(stored) for stored in parts) == expected


def test_v32_latents_have_an_fp32_scale_for_each_128_elements() -> None:
    rows = normal_rows(512)
    stored = encoded("fp8_ds_mla", "latent", rows)
    peaks = rows.unflatten(-1, (-1, 128)).abs().amax(-1)
    assert torch.equal(stored["scale"], peaks / 448)
    codes = (rows / stored["scale"].repeat_interleave(128, -1)).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert torch.equal(stored["codes"].float(), codes.float())


def test_v4_latents_have_seven_powers_of_two_and_a_zero_byte() -> None:
    rows = torch.zeros(1, 1, 1, 448)
    rows[..., [0, 64, 128, 192, 256, 320]] = torch.tensor([448.0, 449.0, -896.0, 1.0, 1e-6, 2.0**20])
    # 2**ceil(log2(amax / 448)): 1, 2, 2, 2**-8 (1 / 448 is above 2**-9), and amax counts as at least 1e-4: 2**-22;
    # 2**20 / 448 is just above 2**11; a tile of zeros is as one of 1e-4
    expected = [127, 128, 128, 119, 105, 139, 105, 0]
    assert encoded("fp8_ds_mla", "latent", rows)["scale"].flatten().tolist() == expected


def test_index_keys_have_a_power_of_two_in_fp32() -> None:
    rows = normal_rows(128)
    scale = encoded("fp8_ds_mla", "index", rows)["scale"]
    peaks = rows.abs().amax(-1, keepdim=True)
    assert scale.dtype == torch.float32
    assert (torch.frexp(scale).mantissa == 0.5).all()
    assert (scale * 448 >= peaks).all()
    assert (scale * 224 < peaks).all()


@pytest.mark.parametrize(
    ("name", "part", "width", "block"),
    [
        ("fp8_ds_mla", "latent", 512, 128),
        ("fp8_ds_mla", "latent", 448, 64),
        ("fp8_ds_mla", "index", 128, 128),
        ("nvfp4_ds_mla", "index", 128, 128),
    ],
)
def test_fp8_elements_are_within_a_sixteenth_of_themselves(name: str, part: str, width: int, block: int) -> None:
    rows = normal_rows(width)
    smallest_step = block_peaks(rows, block) / 224 * 2**-10  # half of E4M3's 2**-9 at the largest scale
    bound = torch.maximum(rows.abs() * (1 + 2**-20) / 16, smallest_step)
    assert ((rows - round_trip(name, part, rows)).abs() <= bound).all()


def test_fp4_latents_are_coarser_than_fp8_and_good_to_a_tenth() -> None:
    rows = normal_rows(512)
    assert relative_error("fp8_ds_mla", "latent", rows) < 0.03
    assert 0.03 < relative_error("nvfp4_ds_mla", "latent", rows) < 0.1


def test_rotary_keys_are_16_bits_or_e4m3() -> None:
    rows = normal_rows(64)
    assert torch.equal(round_trip("fp8_ds_mla", "rope", rows.bfloat16(), torch.bfloat16), rows.bfloat16())
    assert torch.equal(round_trip("nvfp4_ds_mla", "rope", rows), rows.to(torch.float8_e4m3fn).float())
    ends = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e6]).repeat(16).reshape(1, 1, 1, 64)
    assert round_trip("nvfp4_ds_mla", "rope", ends).flatten()[:4].tolist() == [448.0, -448.0, 0.0, 448.0]
