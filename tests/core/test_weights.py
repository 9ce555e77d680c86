"""Bytes of weights against hand arithmetic and published file sizes."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kvplan.core.errors import UnknownNameError, UsageError
from kvplan.core.model import Parameters
from kvplan.core.weights import get_weight_format, weight_format_names, weights_bytes

# Counts of the models' own code, built on the meta device.
LLAMA_8B = Parameters(
    embedding=525336576, output_head=525336576, attention=1342177280, mlp=5637144576, norms=266240, certainty="exact"
)
LLAMA_70B = Parameters(
    embedding=1050673152, output_head=1050673152, attention=12079595520, mlp=56371445760, norms=1318912
)
GPT_OSS_20B = Parameters(
    embedding=579133440, output_head=579133440, attention=637203456, experts=19116933120, routers=2212608, norms=141120
)


@pytest.mark.parametrize(("name", "expected"), [("bf16", 141107412992), ("fp16", 141107412992), ("fp32", 282214825984)])
def test_float_weights_of_llama_70b_are_exact(name: str, expected: int) -> None:
    assert LLAMA_70B.total == 70553706496
    assert weights_bytes(LLAMA_70B, get_weight_format(name)) == expected
    assert get_weight_format(name).certainty == "exact"


# llama.cpp tools/quantize/README.md, Llama-3.1-8B: bits per weight of the whole file. The F32 norms are 0.003 % of it.
@pytest.mark.parametrize(
    ("name", "bits_per_weight"),
    [
        ("IQ1_S", 2.0042),
        ("IQ2_M", 2.9294),
        ("IQ3_XXS", 3.2548),
        ("IQ4_XS", 4.4597),
        ("Q2_K", 3.1593),
        ("Q3_K_S", 3.6429),
        ("Q3_K_L", 4.2979),
        ("Q4_K_S", 4.6672),
        ("Q4_K_M", 4.8944),
        ("Q5_K_M", 5.7036),
        ("Q6_K", 6.5633),
        ("Q8_0", 8.5008),
    ],
)
def test_gguf_files_of_llama_8b_have_the_published_bits_per_weight(name: str, bits_per_weight: float) -> None:
    size = weights_bytes(LLAMA_8B, get_weight_format(name))
    assert 8 * size / LLAMA_8B.total == pytest.approx(bits_per_weight, abs=0.0005)


def test_a_gguf_mixture_is_an_estimate_within_two_percent_on_a_larger_model() -> None:
    # README: Llama-3.1-70B in Q4_K_M takes 43.1 GB, where the 8B gave the figures
    assert weights_bytes(LLAMA_70B, get_weight_format("q4_k_m")) == pytest.approx(43.1e9, rel=0.02)
    assert get_weight_format("q4_k_m").certainty == "estimate"


# 4 bits, a 16-bit scale and a 4-bit zero point per 128; embedding, head and norms in 16 bits.
@pytest.mark.parametrize("name", ["int4-awq", "int4-gptq", "awq", "GPTQ"])
def test_int4_keeps_embedding_head_and_norms_in_sixteen_bits(name: str) -> None:
    linear = 12079595520 + 56371445760
    expected = linear * (4 * 128 + 16 + 4) // (128 * 8) + 2 * (2 * 1050673152 + 1318912)
    assert weights_bytes(LLAMA_70B, get_weight_format(name)) == expected


def test_fp8_pays_an_fp32_scale_per_block_of_128_by_128() -> None:
    experts = Parameters(experts=2**28)
    assert weights_bytes(experts, get_weight_format("fp8")) == 2**28 + 4 * 2**14


@pytest.mark.parametrize(
    ("name", "bits"),
    [("nvfp4", "4.5"), ("mxfp4", "4.25"), ("bnb-nf4", "4.5"), ("mlx_4bit", "4.5"), ("int4_g32", "4.5")],
)
def test_scales_are_counted(name: str, bits: str) -> None:
    assert get_weight_format(name).linear_bits == Fraction(bits)


def test_gpt_oss_quantizes_its_experts_alone() -> None:
    # 4.25 bits for the experts, 16 for the rest; model card, arXiv 2508.10925 table 1: the checkpoint takes 12.8 GiB
    size = weights_bytes(GPT_OSS_20B, get_weight_format("mxfp4-experts"))
    assert size == (19116933120 * 17 // 32) + 2 * (20914757184 - 19116933120)
    assert size / 2**30 == pytest.approx(12.8, abs=0.05)


def test_a_scope_leaves_attention_or_all_but_experts_alone() -> None:
    mixed = Parameters(attention=800, mlp=800, experts=800)
    assert weights_bytes(mixed, get_weight_format("mxfp4")) == 3 * 425
    assert weights_bytes(mixed, get_weight_format("mxfp4_mlp")) == 2 * 425 + 1600
    assert weights_bytes(mixed, get_weight_format("mxfp4_experts")) == 425 + 2 * 1600


def test_a_tied_embedding_is_priced_as_the_head() -> None:
    # llama.cpp src/llama-quant.cpp: a shared tensor takes the type of the output, Q6_K here
    assert weights_bytes(Parameters(embedding=256), get_weight_format("q4_0")) == 210
    assert weights_bytes(Parameters(embedding=256, output_head=256), get_weight_format("q4_0")) == 144 + 210


def test_draft_layers_are_not_counted() -> None:
    assert weights_bytes(Parameters(mlp=100, mtp=1000), get_weight_format("bf16")) == 200


def test_a_whole_byte_is_rounded_up() -> None:
    assert weights_bytes(Parameters(mlp=3), get_weight_format("q4_0")) == 2


@pytest.mark.parametrize("name", weight_format_names())
def test_every_weight_format_states_its_source_and_lies_between_one_and_32_bits(name: str) -> None:
    entry = get_weight_format(name.replace("_", "-").upper())
    assert entry.name == name
    assert entry.source
    assert entry.certainty in ("exact", "estimate")
    for bits in (entry.linear_bits, entry.embedding_bits, entry.head_bits, entry.norm_bits):
        assert 1 <= bits <= 32


def test_a_group_of_a_format_that_quantizes_the_embedding_moves_it_too() -> None:
    entry = get_weight_format("mlx_4bit_g32")
    assert entry.linear_bits == entry.embedding_bits == entry.head_bits == 5
    assert get_weight_format("int4_awq_g32").embedding_bits == 16


@pytest.mark.parametrize(("text", "near"), [("q4_k_n", "q4_k_m"), ("bf17", "bf16"), ("int4_awk", "int4_awq")])
def test_an_unknown_weight_format_is_answered_with_near_ones(text: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_weight_format(text)
    assert near in str(caught.value.hint)


@pytest.mark.parametrize("text", ["bf16_g32", "int4_g0"])
def test_groups_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no groups of"):
        get_weight_format(text)


def test_a_gguf_format_may_carry_the_files_prefix() -> None:
    assert get_weight_format("gguf-q4_k_m") == get_weight_format("q4_k_m")
