"""Keys and values into formats and back, and the scales that a quantizer keeps for each layer."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from codec_laws import normal_rows  # noqa: E402

from kvplan.core.errors import UnsupportedError, UsageError  # noqa: E402
from kvplan.core.part import Part  # noqa: E402
from kvplan.formats import get_format  # noqa: E402
from kvplan.runtime.hadamard import rotate  # noqa: E402
from kvplan.runtime.quantizer import KVCacheQuantizer, dequantize, nbytes, quantize  # noqa: E402

FORMATS = (
    "bf16", "fp32", "fp8", "fp8_e5m2", "fp8_per_token_head", "int8", "int4", "int8_per_tensor", "int4_per_tensor",
    "nvfp4", "q8_0", "q4_0", "int2", "int4_group", "kivi2", "quanto4", "hqq8", "exl3_3", "turboquant_k8v4",
)  # fmt: skip


def keys_and_values(seed: int = 0, tokens: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    keys = normal_rows(128, tokens=tokens, seed=seed)
    keys[..., 3] += 15
    return keys.to(torch.bfloat16), normal_rows(128, tokens=tokens, seed=seed + 1).to(torch.bfloat16)


def price(name: str, part: str, rows: torch.Tensor) -> int:
    described = Part(name=part, num_heads=rows.shape[1], width=rows.shape[3])
    return rows.shape[0] * get_format(name).stored_bytes(described, rows.shape[2])


def error(rows: torch.Tensor, decoded: torch.Tensor) -> float:
    return float((rows.float() - decoded.float()).norm() / rows.float().norm())


@pytest.mark.parametrize("name", FORMATS)
def test_a_tensor_takes_its_price_and_comes_back_in_its_dtype(name: str) -> None:
    rows = keys_and_values()[0]
    stored = quantize(rows, name)
    assert nbytes(stored) == price(name, "key", rows)
    assert dequantize(stored).dtype == torch.bfloat16
    assert dequantize(stored, torch.float32).dtype == torch.float32
    assert error(rows, dequantize(stored)) < 0.9


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rotate_keys", [False, True])
def test_keys_and_values_of_a_layer_take_the_price_of_both(name: str, rotate_keys: bool) -> None:
    k, v = keys_and_values()
    quantizer = KVCacheQuantizer(name, rotate_keys=rotate_keys)
    stored = quantizer.quantize_kv(k, v, 0)
    assert nbytes(stored) == price(name, "key", k) + price(name, "value", v)
    keys, values = quantizer.dequantize_kv(stored, 0)
    assert (keys.dtype, values.dtype) == (torch.bfloat16, torch.bfloat16)
    assert error(k, keys) < 0.9
    assert error(v, values) < 0.9
    assert quantizer.dequantize_kv(stored, 0, torch.float32)[0].dtype == torch.float32


def test_sixteen_bits_give_back_the_same_tensors() -> None:
    k, v = keys_and_values()
    quantizer = KVCacheQuantizer("bf16")
    keys, values = quantizer.dequantize_kv(quantizer.quantize_kv(k, v, 0), 0)
    assert torch.equal(keys, k)
    assert torch.equal(values, v)


def test_keys_and_values_may_have_different_formats() -> None:
    k, v = keys_and_values()
    stored = KVCacheQuantizer("q8_0/int4").quantize_kv(k, v, 0)
    assert nbytes(stored.key) == price("q8_0", "key", k)
    assert nbytes(stored.value) == price("int4", "value", v)


@pytest.mark.parametrize("name", ["int8_per_tensor", "int4_per_tensor"])
def test_the_first_tensors_of_a_layer_fix_its_scales(name: str) -> None:
    k, v = keys_and_values()
    quantizer = KVCacheQuantizer(name)
    first = quantizer.quantize_kv(k, v, 0)
    later = quantizer.quantize_kv(k * 3, v * 3, 0)
    other = quantizer.quantize_kv(k * 3, v * 3, 1)
    scale = first.key.tensors["sequence_scale"]
    assert torch.equal(later.key.tensors["sequence_scale"], scale)
    torch.testing.assert_close(other.key.tensors["sequence_scale"], scale * 3, rtol=2**-8, atol=0)
    levels = 127 if name.startswith("int8") else 7
    torch.testing.assert_close(scale, torch.full((2, 1, 1, 1), float(k.abs().amax()) / levels))
    assert quantizer.dequantize_kv(later, 0)[0].amax() == k.amax()


def test_a_layers_scale_serves_batches_of_any_size() -> None:
    k, v = keys_and_values()
    quantizer = KVCacheQuantizer("int8_per_tensor")
    quantizer.quantize_kv(k, v, 0)
    stored = quantizer.quantize_kv(k[:1].repeat(3, 1, 1, 1), v[:1].repeat(3, 1, 1, 1), 0)
    assert stored.key.tensors["sequence_scale"].shape == (3, 1, 1, 1)
    assert error(k[:1], quantizer.dequantize_kv(stored, 0)[0][:1]) < 0.03


def test_quantizing_again_with_the_same_scale_changes_nothing() -> None:
    k, v = keys_and_values()
    quantizer = KVCacheQuantizer("int8_per_tensor")
    stored = quantizer.quantize_kv(k, v, 0)
    again = quantizer.quantize_kv(*quantizer.dequantize_kv(stored, 0, torch.float32), 0)
    assert torch.equal(again.key.tensors["codes"], stored.key.tensors["codes"])
    assert torch.equal(again.value.tensors["codes"], stored.value.tensors["codes"])


def test_fp8_scales_are_one_until_they_are_calibrated_or_set() -> None:
    k, v = (rows * 1000 for rows in keys_and_values())
    quantizer = KVCacheQuantizer("fp8_e4m3")
    plain = quantizer.quantize_kv(k, v, 0)
    assert quantizer.dequantize_kv(plain, 0)[0].abs().amax() == 448
    quantizer.calibrate(k, v, 0)
    calibrated = quantizer.quantize_kv(k, v, 0)
    assert calibrated.key.tensors["codes"].float().abs().amax() == 448
    assert error(k, quantizer.dequantize_kv(calibrated, 0)[0]) < 0.05
    quantizer.set_scales(0, key=64.0, value=32.0)
    by_hand = quantizer.quantize_kv(k, v, 0)
    assert torch.equal(by_hand.key.tensors["codes"].float(), (k.float() / 64).to(torch.float8_e4m3fn).float())
    assert torch.equal(by_hand.value.tensors["codes"].float(), (v.float() / 32).to(torch.float8_e4m3fn).float())
    assert nbytes(by_hand) == nbytes(plain)


def test_a_checkpoints_scale_may_be_given_to_integers_too() -> None:
    k, v = keys_and_values()
    quantizer = KVCacheQuantizer("int8_per_tensor")
    quantizer.set_scales(0, key=0.5, value=0.25)
    stored = quantizer.quantize_kv(k, v, 0)
    assert torch.equal(stored.key.tensors["codes"].float(), (k.float() / 0.5).round().clamp(-127, 127))


def test_scales_that_no_format_keeps_or_that_are_no_scales_are_refused() -> None:
    with pytest.raises(UsageError, match="int8_per_token_head has no scale for a layer"):
        KVCacheQuantizer("int8").set_scales(0, key=1.0, value=1.0)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="must be a positive number"):
            KVCacheQuantizer("fp8").set_scales(0, key=scale, value=1.0)


def test_rotated_keys_keep_their_scores_with_rotated_queries() -> None:
    k, v = (rows.float() for rows in keys_and_values())
    queries = normal_rows(128, seed=9)
    quantizer = KVCacheQuantizer("fp32", rotate_keys=True)
    held = dequantize(quantizer.quantize_kv(k, v, 0).key)
    scores = queries @ k.transpose(-1, -2) / 128**0.5
    torch.testing.assert_close(rotate(queries) @ held.transpose(-1, -2) / 128**0.5, scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["int8", "int8_per_tensor", "int4_per_tensor", "int_group:group=128"])
def test_rotation_lowers_the_error_where_an_outlier_shares_its_scale_with_the_row(name: str) -> None:
    k, v = keys_and_values()
    plain, rotated = KVCacheQuantizer(name), KVCacheQuantizer(name, rotate_keys=True)
    before = plain.dequantize_kv(plain.quantize_kv(k, v, 0), 0, torch.float32)[0]
    after = rotated.dequantize_kv(rotated.quantize_kv(k, v, 0), 0, torch.float32)[0]
    assert error(k, after) < error(k, before) / 1.4


def test_rows_that_a_format_cannot_hold_are_refused() -> None:
    rows = normal_rows(80)
    with pytest.raises(UnsupportedError, match="q8_0 codes 32 elements together"):
        quantize(rows, "q8_0")
    with pytest.raises(UnsupportedError, match="q8_0 codes 32 elements together"):
        KVCacheQuantizer("q8_0").quantize_kv(rows, rows, 0)
