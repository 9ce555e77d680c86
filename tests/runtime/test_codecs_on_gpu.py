"""A GPU stores the very bytes that the CPU stores."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from codec_laws import codec_of, normal_rows  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

EXACT = [
    *((name, "key", 128) for name in ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")),
    *((name, "key", 128) for name in ("nvfp4", "mxfp4", "mxfp8", "fp4_mx_block16", "ultraquant_4bit")),
    *((name, "value", 128) for name in ("turboquant_k8v4", "turboquant_3bit_nc")),
    ("turboquant_k8v4", "key", 128),
    *(("fp8_ds_mla", part, width) for part, width in (("latent", 448), ("rope", 64), ("index", 128))),
    *(("nvfp4_ds_mla", part, width) for part, width in (("latent", 512), ("rope", 64), ("index", 128))),
]
NORMED = [
    ("turboquant_4bit_nc", "key"),
    ("turboquant_3bit_nc", "key"),
    ("turbo_quant", "key"),
    ("turbo_quant", "value"),
]


def varied_rows(width: int) -> torch.Tensor:
    rows = normal_rows(width, tokens=64) * torch.logspace(-4, 4, 64)[:, None]
    rows[0, 0, 0] = 0.0
    rows[0, 1] = rows[0, 1].bfloat16().float()
    rows[1, 0, 1, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    return rows


def stored_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a field; which of bfloat16's NaNs a conversion leaves is each processor's own, so all become one."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.masked_fill(tensor.isnan(), float("nan"))
    return tensor.view(torch.uint8)


@pytest.mark.parametrize(("name", "part", "width"), EXACT)
def test_bytes_and_values_are_those_of_the_cpu(name: str, part: str, width: int) -> None:
    codec, rows = codec_of(name, part, width), varied_rows(width)
    expected, stored = codec.encode(rows, {}), codec.encode(rows.cuda(), {})
    for field, tensor in expected.items():
        assert torch.equal(stored_bytes(stored[field].cpu()), stored_bytes(tensor)), field
    values = codec.decode(stored, {}, torch.float32).cpu()
    torch.testing.assert_close(values, codec.decode(expected, {}, torch.float32), rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize(("name", "part"), NORMED)
def test_norms_are_summed_in_another_order_and_rows_agree_to_rounding(name: str, part: str) -> None:
    codec, rows = codec_of(name, part, 128), normal_rows(128, tokens=64)
    expected = codec.decode(codec.encode(rows, {}), {}, torch.float32)
    values = codec.decode(codec.encode(rows.cuda(), {}), {}, torch.float32).cpu()
    assert (values - expected).norm() / expected.norm() < 2e-3
