"""The weight formats by name: bits per parameter with scales, and what each figure rests on.

GGUF mixtures give some tensors more bits than others. Their figures come from the bits per weight that llama.cpp
publishes for Llama-3.1-8B (``tools/quantize/README.md``, 2026), less its embedding and output head, whose types follow
``src/llama-quant.cpp``; on other models the mixture can differ by a few percent.
"""

from __future__ import annotations

from fractions import Fraction

from kvplan.core.weights import WeightFormat, float_formats

_Q6_K = Fraction(210 * 8, 256)
_README = "llama.cpp tools/quantize/README.md, bits per weight of Llama-3.1-8B without embedding and head"
_BLOCK = "block layout of ggml-common.h; types of embedding and head from llama.cpp src/llama-quant.cpp"


def _grouped(name: str, bits: int, group: int, group_bits: int, source: str) -> WeightFormat:
    """``bits`` per element and ``group_bits`` of scale and zero point per ``group``; the rest stays 16-bit."""
    return WeightFormat(
        name=name,
        linear_bits=bits + Fraction(group_bits, group),
        payload_bits=bits,
        group_bits=group_bits,
        source=source,
    )


def _mlx(bits: int) -> WeightFormat:
    """mlx-lm quantizes embedding and head too: 16-bit scale and bias per 64 elements."""
    name, source = f"mlx_{bits}bit", "mlx-lm 0.32 quantize: group 64, 16-bit scale and bias, embedding included"
    entry = _grouped(name, bits, 64, 32, source)
    return WeightFormat(
        name=name,
        linear_bits=entry.linear_bits,
        embedding_bits=entry.linear_bits,
        head_bits=entry.linear_bits,
        payload_bits=bits,
        group_bits=32,
        source=source,
    )


def _gguf(name: str, linear: str, embedding: str, head: Fraction = _Q6_K, source: str = _README) -> WeightFormat:
    """A GGUF file: norms and routers are fp32, the head has more bits than the rest."""
    return WeightFormat(
        name=name,
        linear_bits=Fraction(linear),
        embedding_bits=Fraction(embedding),
        head_bits=head,
        norm_bits=Fraction(32),
        source=source,
    )


def _block(name: str, bits: str, embedding: str | None = None, head: Fraction = _Q6_K) -> WeightFormat:
    return _gguf(name, bits, embedding or bits, head, _BLOCK)


_CHECKPOINTS = (
    *float_formats(),
    WeightFormat(
        name="fp8",
        linear_bits=8 + Fraction(32, 128 * 128),
        source="one fp32 scale per block of 128 x 128 (DeepSeek-V3); per-tensor and per-channel scales take less",
    ),
    WeightFormat(
        name="int8",
        linear_bits=8 + Fraction(16, 4096),
        source="W8A8: one 16-bit scale per output channel, of 4096 inputs here",
    ),
    _grouped("int4", 4, 128, 16, "compressed-tensors pack-quantized, symmetric: 16-bit scale per 128"),
    _grouped("int4_awq", 4, 128, 16 + 4, "AWQ: 16-bit scale and 4-bit zero point per 128"),
    _grouped("int4_gptq", 4, 128, 16 + 4, "GPTQ: 16-bit scale and 4-bit zero point per 128; order indices not counted"),
    _grouped("int8_gptq", 8, 128, 16 + 8, "GPTQ: 16-bit scale and 8-bit zero point per 128; order indices not counted"),
    _grouped("int3_gptq", 3, 128, 16 + 3, "GPTQ: 16-bit scale and 3-bit zero point per 128; order indices not counted"),
    _grouped("int2_gptq", 2, 128, 16 + 2, "GPTQ: 16-bit scale and 2-bit zero point per 128; order indices not counted"),
    _grouped("nvfp4", 4, 16, 8, "E2M1 codes and an e4m3 scale per 16"),
    WeightFormat(
        name="nvfp4_mixed",
        linear_bits=Fraction(9, 2),
        attention_bits=Fraction(8),
        head_bits=Fraction(9, 2),
        source="ModelOpt MIXED_PRECISION (Qwen3.6): FP8 attention and mixers, NVFP4 feed-forward and output head",
    ),
    _grouped("mxfp4", 4, 32, 8, "E2M1 codes and a power-of-two scale per 32"),
    WeightFormat(
        name="fp8_mxfp4",
        linear_bits=4 + Fraction(8, 32),
        attention_bits=8 + Fraction(8, 128 * 128),
        mlp_bits=8 + Fraction(8, 128 * 128),
        source="DeepSeek-V4: routed experts in FP4 with a scale per 32, other projections in FP8",
    ),
    _grouped("bnb_nf4", 4, 64, 32, "bitsandbytes NF4: fp32 maximum per 64"),
    WeightFormat(
        name="bnb_nf4_double",
        linear_bits=4 + Fraction(8, 64) + Fraction(32, 64 * 256),
        source="bitsandbytes NF4 with double quantization: 8-bit maximum per 64, fp32 per 256 of them",
    ),
    WeightFormat(name="bitnet", linear_bits=Fraction(2), source="ternary weights packed four to a byte (BitNet b1.58)"),
    *(_mlx(bits) for bits in (2, 3, 4, 6, 8)),
)

_GGUF = (
    _block("q8_0", "8.5", head=Fraction("8.5")),
    _block("q6_k", "6.5625"),
    _block("q5_1", "6"),
    _block("q5_0", "5.5"),
    _block("q4_1", "5"),
    _block("q4_0", "4.5"),
    _block("q1_0", "1.125"),
    _block("tq2_0", "2.0625", "4.5"),
    _block("tq1_0", "1.6875", "4.5"),
    _gguf("q5_k_m", "5.6533", "5.5"),
    _gguf("q5_k_s", "5.5", "5.5"),
    _gguf("q4_k_m", "4.7975", "4.5"),
    _gguf("q4_k_s", "4.5361", "4.5"),
    _gguf("q3_k_l", "4.1911", "3.4375"),
    _gguf("q3_k_m", "3.8436", "3.4375", source="types of src/llama-quant.cpp applied to Llama-3.1-8B"),
    _gguf("q3_k_s", "3.4375", "3.4375"),
    _gguf("q2_k", "2.9423", "2.625"),
    _gguf("q2_k_s", "2.7241", "2.625"),
    _gguf("iq4_nl", "4.5529", "4.5"),
    _gguf("iq4_xs", "4.3162", "4.25"),
    _gguf("iq3_m", "3.5755", "3.4375"),
    _gguf("iq3_s", "3.4579", "3.4375"),
    _gguf("iq3_xs", "3.2705", "3.4375"),
    _gguf("iq3_xxs", "3.0710", "3.4375", Fraction("5.5")),
    _gguf("iq2_m", "2.6966", "3.4375", Fraction("5.5")),
    _gguf("iq2_s", "2.4790", "3.4375", Fraction("5.5")),
    _gguf("iq2_xs", "2.3651", "2.625", Fraction("5.5")),
    _gguf("iq2_xxs", "2.1283", "2.625", Fraction("5.5")),
    _gguf("iq1_m", "1.8563", "2.625", Fraction("5.5")),
    _gguf("iq1_s", "1.6932", "2.625", Fraction("5.5")),
    WeightFormat(
        name="mxfp4_moe",
        linear_bits=4 + Fraction(8, 32),
        attention_bits=Fraction("8.5"),
        mlp_bits=Fraction("8.5"),
        embedding_bits=Fraction("8.5"),
        head_bits=Fraction("8.5"),
        norm_bits=Fraction(32),
        source="llama.cpp src/llama-quant.cpp: routed experts in MXFP4, everything else in Q8_0",
    ),
)

_ALIASES = {
    "bf16": ("bfloat16",),
    "fp16": ("float16", "f16"),
    "fp32": ("float32", "f32"),
    "fp8": ("fp8_e4m3", "fbgemm_fp8", "w8a8_fp8"),
    "int8": ("w8a8", "w8a8_int8", "bnb_int8"),
    "int4": ("w4a16",),
    "int4_awq": ("awq",),
    "int4_gptq": ("gptq",),
    "bnb_nf4": ("nf4", "bnb_4bit"),
    "q4_k_m": ("q4_k",),
    "q5_k_m": ("q5_k",),
    "q3_k_m": ("q3_k",),
}

WEIGHT_FORMATS: dict[str, WeightFormat] = {entry.name: entry for entry in (*_CHECKPOINTS, *_GGUF)}
WEIGHT_FORMATS.update({alias: WEIGHT_FORMATS[name] for name, aliases in _ALIASES.items() for alias in aliases})
"""Name or alias -> format."""
