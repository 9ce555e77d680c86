"""The fused kernels give what the codecs and the reference in torch give: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

torch = pytest.importorskip("torch")

GPU = torch.cuda.is_available()
if find_spec("triton") is not None:
    if not GPU:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported
    from kvplan.runtime.kernels import rows as row_kernels
    from kvplan.runtime.kernels.decode_attention import KINDS, Problem, attend, supports
    from kvplan.runtime.kernels.tuning import Config

from kvplan.formats import get_format  # noqa: E402
from kvplan.runtime.codec import Rows, nbytes  # noqa: E402
from kvplan.runtime.codecs import row_codec  # noqa: E402
from kvplan.runtime.decode_attention import decode_attention, reference  # noqa: E402
from kvplan.runtime.quantize import dequantize, quantize  # noqa: E402

FORMATS = ["fp8_e4m3", "fp8_per_token_head", "int8_per_token_head", "int4_per_token_head"]
# The interpreter of Triton 3.6 turns one-element arrays into numbers, which numpy warns of and refuses from 2.4 on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN slice) encountered:RuntimeWarning"),
]


def why_not_interpreted() -> str:
    """Why the interpreter cannot run here; empty if it can."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if GPU:
        return "the kernels are compiled for the GPU"
    numpy = pytest.importorskip("numpy")
    return "Triton's interpreter needs numpy before 2.4" if numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0" else ""


WHERE = [
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not (GPU and find_spec("triton")), reason="no GPU with Triton")],
    ),
    pytest.param("cpu", marks=pytest.mark.skipif(bool(why_not_interpreted()), reason=why_not_interpreted() or "runs")),
]
on_each_device = pytest.mark.parametrize("device", WHERE)


def random_rows(device: str, *shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).to(dtype).to(device)


def codes_of(stored: Rows, name: str = "codes") -> torch.Tensor:
    """A stored tensor as numbers that compare."""
    codes = stored[name]
    return codes.float() if codes.is_floating_point() else codes.int()


def unpacked(stored: Rows) -> torch.Tensor:
    return torch.cat([stored["codes"] & 15, stored["codes"] >> 4], dim=-1).int()


@on_each_device
@pytest.mark.parametrize("cache_format", ["int8_per_token_head", "fp8_per_token_head", "fp8_e4m3"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (2, 3, 37, 128), (1, 2, 5, 80)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_kernels_store_bytes_as_the_codec_does(
    device: str, cache_format: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    rows = random_rows(device, *shape, dtype=dtype)
    expected = row_codec(get_format(cache_format), shape[-1]).encode(rows, {})
    found = row_kernels.encode(rows, cache_format)
    assert {name: (t.shape, t.dtype) for name, t in found.items()} == {
        name: (t.shape, t.dtype) for name, t in expected.items()
    }
    if device == "cuda":
        assert all(torch.equal(codes_of(found, name), codes_of(expected, name)) for name in expected)
        return
    # The interpreter rounds a fused multiply-add twice, and loses the carry of an fp8 mantissa into its exponent.
    assert torch.allclose(found.get("scale", torch.ones(1)), expected.get("scale", torch.ones(1)), rtol=2e-7, atol=0)
    difference = (codes_of(found) - codes_of(expected)).abs()
    if cache_format == "int8_per_token_head":
        assert difference.max() <= 1
        assert (difference != 0).float().mean() < 1e-3
    else:
        assert (difference != 0).float().mean() < 0.1


@on_each_device
@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (2, 3, 70, 128)])
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
def test_kernels_store_rotated_nibbles_as_the_codec_does(
    device: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies no bfloat16")
    rows = random_rows(device, *shape, dtype=dtype)
    expected = row_codec(get_format("int4_per_token_head"), shape[-1]).encode(rows, {})
    found = row_kernels.encode(rows, "int4_per_token_head")
    assert found["codes"].shape == expected["codes"].shape
    assert found["scale"].shape == expected["scale"].shape
    assert torch.allclose(found["scale"], expected["scale"], rtol=1e-5)
    difference = (unpacked(found) - unpacked(expected)).abs()
    assert difference.max() <= 1  # sums of another order round another way at a tie
    assert (difference != 0).float().mean() < 2e-3
    assert nbytes(found) == shape[0] * shape[1] * shape[2] * (shape[3] // 2 + 4)


@on_each_device
@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_read_rows_as_the_codec_does(device: str, cache_format: str, dtype: torch.dtype) -> None:
    codec = row_codec(get_format(cache_format), 128)
    stored = codec.encode(random_rows(device, 2, 2, 45, 128), {})
    expected, found = codec.decode(stored, {}, torch.float32), row_kernels.decode(stored, cache_format, dtype)
    assert found.dtype == dtype
    # 2**-8 is a bfloat16 step: the interpreter truncates where a GPU rounds
    assert torch.allclose(found.float(), expected, rtol=2**-7 if dtype == torch.bfloat16 else 2**-10, atol=2e-6)


@on_each_device
@pytest.mark.parametrize("cache_format", FORMATS)
def test_rows_without_numbers_are_stored_as_the_codec_does(device: str, cache_format: str) -> None:
    rows = random_rows(device, 1, 1, 70, 64)
    rows[0, 0, 0, :3] = torch.tensor([float("inf"), float("-inf"), float("nan")])
    rows[0, 0, 1] = 0
    rows[0, 0, 2] = float("nan")
    codec = row_codec(get_format(cache_format), 64)
    found = row_kernels.decode(row_kernels.encode(rows, cache_format), cache_format, torch.float16)
    expected = codec.decode(codec.encode(rows, {}), {}, torch.float16)
    assert torch.isfinite(found).all()
    assert not found[0, 0, 1:3].any()
    # An int4 code may round the other way at a tie; the interpreter's fp8 is wrong in some places.
    bound = 0.2 if device == "cpu" and cache_format.startswith("fp8") else 0.02
    assert (found.float() - expected.float()).norm() <= bound * expected.float().norm()


@on_each_device
def test_strided_rows_are_stored_as_contiguous_ones(device: str) -> None:
    rows = random_rows(device, 2, 9, 3, 64).transpose(1, 2)  # as a projection leaves them
    assert not rows.is_contiguous()
    for cache_format in FORMATS:
        strided, straight = (row_kernels.encode(r, cache_format) for r in (rows, rows.contiguous()))
        assert all(torch.equal(codes_of(strided, name), codes_of(straight, name)) for name in straight)


def problem(
    device: str, cache_format: str, batch: int, kv_heads: int, group: int, tokens: int, width: int = 128,
    value_width: int | None = None,
) -> Problem:  # fmt: skip
    dtype = torch.bfloat16 if cache_format == "bf16" else torch.float16

    def stored(row_width: int, seed: int) -> Rows:
        rows = random_rows(device, batch, kv_heads, tokens, row_width, dtype=dtype, seed=seed)
        encoded = row_codec(get_format(cache_format), row_width).encode(rows, {})
        return {name: tensor.contiguous() for name, tensor in encoded.items()}

    return Problem(
        query=random_rows(device, batch, kv_heads * group, width, seed=3).float(),
        keys=stored(width, 1),
        values=stored(value_width or width, 2),
        cache_format=cache_format,
        softmax_scale=width**-0.5,
    )


def expected_of(asked: Problem) -> torch.Tensor:
    return reference(
        asked.query, asked.keys, asked.values, asked.cache_format, asked.softmax_scale, asked.lengths, asked.block_table
    )


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


BOUND = {"bf16": 6e-3}
"""Relative, Euclidean: weights and queries have 11 bits in the kernel, 8 over a bfloat16 cache."""

CPU, CUDA = WHERE[1], WHERE[0]
CASES = [  # where, then batch, kv_heads, group, tokens, then block and warps
    *((CPU, case, (32, 1)) for case in [(1, 1, 1, 1), (2, 1, 4, 77), (1, 1, 20, 33)]),
    (CUDA, (1, 1, 1, 1), (32, 1)),
    (CUDA, (1, 2, 4, 77), (64, 2)),
    (CUDA, (3, 1, 8, 1030), (64, 4)),
    (CUDA, (8, 8, 4, 333), (128, 4)),
    (CUDA, (2, 4, 20, 501), (64, 4)),
    (CUDA, (8, 1, 8, 4097), (64, 1)),
]


@pytest.mark.parametrize("cache_format", ["bf16", "fp16", *FORMATS])
@pytest.mark.parametrize(
    ("device", "case", "config"),
    [pytest.param(*where.values, case, config, marks=where.marks) for where, case, config in CASES],
)
def test_attention_equals_decoding_and_attending(
    device: str, cache_format: str, case: tuple[int, int, int, int], config: tuple[int, int]
) -> None:
    if device == "cpu" and cache_format == "bf16":
        pytest.skip("the interpreter multiplies no bfloat16")
    asked = problem(device, cache_format, *case)
    block, warps = config
    assert error(attend(asked, Config(block, warps, 2, 2)), expected_of(asked)) < BOUND.get(cache_format, 1e-3)


@on_each_device
@pytest.mark.parametrize(
    ("cache_format", "width", "value_width"),
    [("int8_per_token_head", 96, 64), ("fp8_e4m3", 80, 80), ("int4_per_token_head", 64, 32), ("fp16", 192, 128)],
)
def test_attention_takes_other_widths(device: str, cache_format: str, width: int, value_width: int) -> None:
    asked = problem(device, cache_format, 1, 2, 2, 50, width, value_width)
    assert supports(asked)
    assert error(attend(asked, Config(32, 4, 2, 1)), expected_of(asked)) < 1e-3


@on_each_device
@pytest.mark.parametrize("cache_format", ["fp16", *FORMATS])
def test_attention_stops_at_each_length(device: str, cache_format: str) -> None:
    whole = problem(device, cache_format, 4, 1, 4, 100)
    asked = Problem(**{**vars(whole), "lengths": torch.tensor([100, 1, 37, 0], dtype=torch.int32, device=device)})
    found = attend(asked, Config(32, 4, 2, 2))
    assert error(found, expected_of(asked)) < 1e-3
    assert not found[3].any()


@on_each_device
@pytest.mark.parametrize("cache_format", ["fp16", *FORMATS])
def test_attention_finds_pages_through_the_block_table(device: str, cache_format: str) -> None:
    whole = problem(device, cache_format, 2, 2, 4, 96)
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(5)).to(device)

    def paged(rows: Rows) -> Rows:
        pages = {n: t.unflatten(2, (6, 16)).transpose(1, 2).flatten(0, 1) for n, t in rows.items()}
        return {n: t.contiguous()[shuffled.argsort()] for n, t in pages.items()}

    changes = {
        "keys": paged(whole.keys),
        "values": paged(whole.values),
        "block_table": shuffled.view(2, 6).int(),
        "lengths": torch.tensor([96, 41], dtype=torch.int32, device=device),
    }
    asked = Problem(**{**vars(whole), **changes})
    straight = Problem(**{**vars(whole), "lengths": asked.lengths})
    found = attend(asked, Config(32, 4, 2, 2))
    assert error(found, expected_of(asked)) < 1e-3
    assert error(found, expected_of(straight)) < 1e-3


@on_each_device
def test_a_query_of_any_size_fits(device: str) -> None:
    """Queries beyond float16's range, and value rows far smaller than others, lose nothing."""
    asked = problem(device, "int8_per_token_head", 1, 1, 4, 40)
    large = Problem(**{**vars(asked), "query": asked.query * 1e6, "softmax_scale": asked.softmax_scale / 1e6})
    assert error(attend(large, Config(32, 4, 2, 1)), expected_of(large)) < 1e-3
    values = dict(asked.values)
    values["scale"] = values["scale"] * torch.logspace(-6, 0, 40, device=device)[None, None, :, None]
    uneven = Problem(**{**vars(asked), "values": values})
    assert error(attend(uneven, Config(32, 4, 2, 1)), expected_of(uneven)) < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not (GPU and find_spec("triton")), reason="no GPU with Triton")
@pytest.mark.parametrize("cache_format", FORMATS)
def test_a_long_cache_is_attended_to_by_the_tuned_kernel(cache_format: str) -> None:
    rows = [random_rows("cuda", 4, 8, 8191, 128, dtype=torch.bfloat16, seed=seed) for seed in (1, 2)]
    keys, values = (quantize(part, cache_format) for part in rows)
    query = random_rows("cuda", 4, 64, 128, seed=3)
    found = decode_attention(query.float(), keys, values, cache_format)
    assert error(found, reference(query.float(), keys, values, cache_format, 128**-0.5)) < 1e-3
    assert decode_attention(query, keys, values, cache_format).dtype == query.dtype
    assert dequantize(keys, cache_format, torch.bfloat16).shape == rows[0].shape
    assert set(KINDS) >= set(FORMATS)


@pytest.mark.parametrize("cache_format", ["bf16", *FORMATS])
def test_without_a_gpu_the_public_functions_use_the_codecs(cache_format: str) -> None:
    rows = random_rows("cpu", 2, 2, 33, 64, dtype=torch.bfloat16)
    stored = quantize(rows, cache_format)
    decoded = dequantize(stored, cache_format, torch.float32)
    query = random_rows("cpu", 2, 8, 64, seed=4).float()
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.unsqueeze(2), decoded, decoded, enable_gqa=True
    ).squeeze(2)
    assert torch.allclose(decode_attention(query, stored, stored, cache_format), expected, atol=1e-4)
