"""Bytes of rows against figures published by the engines and papers, never against kvplan itself."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kvplan.core.errors import UnsupportedError
from kvplan.core.part import Part
from kvplan.formats import get_format

# K and V of one token and head. vLLM 0.33: v1/kv_cache_interface.py, triton_attn.py customize_spec, torch_utils.py
# nvfp4_kv_cache_full_dim, quantization/turboquant/config.py, ops/ultraquant/format.py. llama.cpp: ggml-common.h blocks.
SLOT_BYTES = {
    64: {
        "bf16": 256,
        "nvfp4": 72,
        "turboquant_k8v4": 100,
        "turboquant_4bit_nc": 70,
        "turboquant_k3v4_nc": 62,
        "turboquant_3bit_nc": 54,
        "int8": 136,
        "int4": 72,
        "q8_0": 136,
    },
    128: {
        "fp32": 1024,
        "bf16": 512,
        "fp16": 512,
        "fp8": 256,
        "fp8_e5m2": 256,
        "int8": 264,
        "fp8_per_token_head": 264,
        "int4": 136,
        "nvfp4": 144,
        "fp4_mx_block16": 144,
        "mxfp4": 136,
        "mxfp8": 264,
        "ultraquant_4bit": 136,
        "turboquant_k8v4": 196,
        "turboquant_4bit_nc": 134,
        "turboquant_k3v4_nc": 118,
        "turboquant_3bit_nc": 102,
        "q8_0": 272,
        "q5_1": 192,
        "q5_0": 176,
        "q4_1": 160,
        "q4_0": 144,
        "iq4_nl": 144,
    },
    256: {
        "turboquant_k8v4": 388,
        "turboquant_4bit_nc": 262,
        "turboquant_k3v4_nc": 230,
        "turboquant_3bit_nc": 198,
        "int8": 520,
        "int4": 264,
        "nvfp4": 288,
    },
}


def slot_bytes(name: str, head_dim: int) -> Fraction:
    cache_format = get_format(name)
    return sum(
        (cache_format.row_bytes(Part(name=part, num_heads=1, width=head_dim)) for part in ("key", "value")), Fraction(0)
    )


@pytest.mark.parametrize(
    ("head_dim", "name", "expected"),
    [(head_dim, name, size) for head_dim, sizes in SLOT_BYTES.items() for name, size in sizes.items()],
)
def test_a_slot_takes_what_the_engine_allocates(head_dim: int, name: str, expected: int) -> None:
    assert slot_bytes(name, head_dim) == expected


# turboquant/config.py: key ceil(3D/8)+2, value ceil(4D/8)+4 or ceil(3D/8)+4, the sum rounded up to even.
@pytest.mark.parametrize(
    ("name", "head_dim", "expected"),
    [("turboquant_k3v4_nc", 72, 70), ("turboquant_3bit_nc", 72, 60), ("turboquant_k3v4_nc", 80, 76)],
)
def test_turboquant_rows_of_odd_bytes_are_padded_together(name: str, head_dim: int, expected: int) -> None:
    assert slot_bytes(name, head_dim) == expected


# Ratios against bf16 of whole dense models, first and last two layers native: they reproduce vLLM's published
# capacity gains (blog 2026-05-11: k8v4 2.4x and 4bit_nc 3.4x on 80 layers).
@pytest.mark.parametrize(
    ("name", "ratios"),
    [
        ("turboquant_k8v4", {32: 2.17, 36: 2.22, 48: 2.30, 80: 2.42}),
        ("turboquant_4bit_nc", {32: 2.82, 36: 2.91, 48: 3.09, 80: 3.35}),
        ("turboquant_k3v4_nc", {32: 3.06, 36: 3.16, 48: 3.39, 80: 3.72}),
        ("turboquant_3bit_nc", {32: 3.34, 36: 3.47, 48: 3.76, 80: 4.18}),
    ],
)
def test_boundary_layers_lower_turboquants_ratio(name: str, ratios: dict[int, float]) -> None:
    native_layers = 2 * get_format(name).boundary_layers
    for layers, expected in ratios.items():
        stored = native_layers * 512 + (layers - native_layers) * slot_bytes(name, 128)
        assert float(layers * 512 / stored) == pytest.approx(expected, abs=0.0051)


# Bits per element, scales included: KIVI new_pack.py (b + 1 at group 32); transformers 5.23 QuantizedCache measured in
# bf16 with optimum-quanto 0.2.7 and hqq 0.2.8.post1 (b + 0.5 at group 64); mlx-lm 0.32 (b + 0.5 at group 64).
@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("kivi2", "3"),
        ("kivi4", "5"),
        ("quanto4", "4.5"),
        ("quanto2", "2.5"),
        ("hqq8", "8.5"),
        ("hqq4", "4.5"),
        ("hqq2", "2.5"),
        ("hqq1", "1.5"),
        ("int8_group", "8.5"),
        ("int4_group", "4.5"),
        ("int2_group", "2.5"),
    ],
)
def test_groups_pay_for_their_scales(name: str, bits: str) -> None:
    assert slot_bytes(name, 128) * 8 / 256 == Fraction(bits)


# Measured nbytes of codes, scales and shifts of one tensor [1, 2, T, 64] in bf16 (same versions).
@pytest.mark.parametrize(
    ("name", "tokens", "expected"),
    [("quanto4", 128, 9216), ("quanto2", 200, 8000), ("hqq8", 256, 34816), ("hqq4", 200, 14400), ("hqq1", 128, 3072)],
)
def test_a_prompt_in_a_quantized_cache_takes_what_was_measured(name: str, tokens: int, expected: int) -> None:
    assert get_format(name).stored_bytes(Part(name="key", num_heads=2, width=64), tokens) == expected


def test_tokens_generated_after_the_prompt_wait_in_sixteen_bits() -> None:
    part = Part(name="key", num_heads=2, width=64)
    waiting = get_format("quanto:bits=4,residual=127")
    assert waiting.stored_bytes(part, 128 + 127) == 9216 + 127 * 2 * 64 * 2


def test_int8_per_token_head_takes_2112_bytes_per_layer_of_8_heads_of_128() -> None:
    key, value = (Part(name=name, num_heads=8, width=128) for name in ("key", "value"))
    cache_format = get_format("int8")
    assert cache_format.row_bytes(key) + cache_format.row_bytes(value) == 2112


def test_int8_per_token_head_saves_48_percent_not_half() -> None:
    # nano-vllm 184: 14,000 MiB become 7,218.75 MiB at a head of 128
    assert 14000 * slot_bytes("int8", 128) / slot_bytes("bf16", 128) == Fraction("7218.75")


def test_a_per_tensor_scale_counts_once_per_tensor() -> None:
    part = Part(name="key", num_heads=8, width=128)
    assert get_format("int8_per_tensor").stored_bytes(part, 100) == 100 * 1024 + 4
    assert get_format("int4_per_tensor").stored_bytes(part, 100) == 100 * 512 + 4


# FlashMLA sparse rows: vLLM 0.33 mla_attention.py:1386; DeepSeek-V4 584 = 448 + 128 + 8.
@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        ("fp8_ds_mla", 512, 656),
        ("fp8_ds_mla", 448, 584),
        ("nvfp4_ds_mla", 512, 352),
        ("bf16", 512, 1152),
        ("fp8", 512, 576),
        ("int8", 512, 584),
        ("int4", 512, 296),
    ],
)
def test_a_latent_row_takes_what_the_kernel_reads(name: str, rank: int, expected: int) -> None:
    latent = Part(name="latent", num_heads=1, width=rank, sharded=False)
    rope = Part(name="rope", num_heads=1, width=64, sharded=False)
    assert get_format(name).row_bytes(latent) + get_format(name).row_bytes(rope) == expected


# vLLM 0.33 deepseek_v2.py:655: 128 + 128/128 * 4; bf16 index keys in transformers 5.23.
@pytest.mark.parametrize(
    ("name", "expected"), [("fp8", 132), ("fp8_ds_mla", 132), ("nvfp4_ds_mla", 132), ("bf16", 256)]
)
def test_index_keys_carry_a_scale_in_fp8(name: str, expected: int) -> None:
    assert get_format(name).row_bytes(Part(name="index", num_heads=1, width=128, sharded=False)) == expected


# KIVI keeps T mod 128 keys and the newest 128 values in 16 bits (docs/long_bench.md).
@pytest.mark.parametrize(("tokens", "keys", "values"), [(100, 0, 0), (128, 128, 0), (300, 256, 172), (384, 384, 256)])
def test_kivi_quantizes_whole_residuals_of_keys_and_all_but_the_newest_values(
    tokens: int, keys: int, values: int
) -> None:
    for name, quantized in (("key", keys), ("value", values)):
        part = Part(name=name, num_heads=1, width=128)
        assert get_format("kivi2").stored_bytes(part, tokens) == quantized * 48 + (tokens - quantized) * 256


@pytest.mark.parametrize(
    ("name", "part", "word"),
    [
        ("q8_0", Part(name="key", num_heads=8, width=80), "row of 80"),
        ("nvfp4", Part(name="key", num_heads=8, width=72), "row of 72"),
        ("kivi", Part(name="value", num_heads=8, width=80), "groups of 32"),
        ("kivi:residual=100", Part(name="key", num_heads=8, width=128), "residual of 100"),
        ("turboquant_k8v4", Part(name="latent", num_heads=1, width=512), "latent row of 512"),
        ("fp8_ds_mla", Part(name="latent", num_heads=1, width=256), "latent row of 256"),
        ("fp8_ds_mla", Part(name="key", num_heads=8, width=128), "key row of 128"),
    ],
)
def test_rows_that_a_format_cannot_hold_are_refused(name: str, part: Part, word: str) -> None:
    with pytest.raises(UnsupportedError, match=word) as caught:
        get_format(name).check(part)
    assert caught.value.hint
