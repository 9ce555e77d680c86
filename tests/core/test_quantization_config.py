"""Schemes of real checkpoints, as their ``config.json`` states them, abridged."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.quantization_config import weight_format_of
from kvplan.core.weights import get_weight_format

LAYERS = range(60)
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
KIMI_IGNORES = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]


def groups(*weights: dict[str, Any]) -> dict[str, Any]:
    return {f"group_{index}": {"weights": entry, "targets": ["Linear"]} for index, entry in enumerate(weights)}


FP8 = {"num_bits": 8, "type": "float", "dynamic": False}
NVFP4 = {"num_bits": 4, "type": "float", "group_size": 16}

CASES: list[tuple[str, dict[str, Any], str | None]] = [
    ("DeepSeek-V3", {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}, "fp8"),
    ("MiniMax-M2", {"quant_method": "fp8", "modules_to_not_convert": ["gate", "lm_head"]}, "fp8"),
    (
        "Qwen3-235B-FP8",
        {
            "quant_method": "fp8",
            "modules_to_not_convert": ["lm_head"]
            + [f"model.layers.{layer}.{name}" for layer in LAYERS for name in ("post_attention_layernorm", "mlp.gate")],
        },
        "fp8",
    ),
    (
        "Llama-4-Scout-FP8",
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": groups({**FP8, "strategy": "channel", "group_size": None}),
            "ignore": [f"language_model.model.layers.{layer}.self_attn.q_proj" for layer in LAYERS]
            + ["vision_model.model.layers.0.mlp.fc1"],
        },
        "fp8_mlp",
    ),
    (
        "Kimi-K2.5",
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": groups(INT4),
            "ignore": KIMI_IGNORES,
        },
        "int4_g32_experts",
    ),
    (
        "Kimi-K3",
        {
            "quant_method": "compressed-tensors",
            "format": "mxfp4-pack-quantized",
            "config_groups": groups({**INT4, "type": "float"}),
            "ignore": KIMI_IGNORES,
        },
        "mxfp4_experts",
    ),
    ("W8A8", {"quant_method": "compressed-tensors", "config_groups": groups({"num_bits": 8, "type": "int"})}, "int8"),
    ("gpt-oss", {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, "mxfp4_experts"),
    (
        "Gemma-4-31B-NVFP4",
        {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "config_groups": groups(NVFP4),
            "ignore": [f"model.language_model.layers.{layer}.self_attn*" for layer in LAYERS] + ["lm_head"],
        },
        "nvfp4_mlp",
    ),
    (
        "Qwen3.6-NVFP4",
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "config_groups": groups(FP8, NVFP4),
            "ignore": ["mtp*"],
        },
        "nvfp4_mixed",
    ),
    ("awq", {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "int4_awq"),
    ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}, "int4_gptq_g32"),
    ("gptq without groups", {"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8_gptq"),
    (
        "bnb",
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        "bnb_nf4_double",
    ),
    ("bnb int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
    ("fbgemm", {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}, "fp8"),
    ("bitnet", {"quant_method": "bitnet", "linear_class": "autobitlinear"}, "bitnet"),
    ("mlx", {"group_size": 64, "bits": 8}, "mlx_8bit"),
    ("exl2", {"quant_method": "exl2", "bits": 2.5, "head_bits": 6}, None),
    ("unknown", {"quant_method": "tomorrow"}, None),
    ("empty", {}, None),
    ("mixed ints", {"quant_method": "compressed-tensors", "config_groups": groups(INT4, FP8)}, None),
    ("odd types", {"quant_method": "gptq", "bits": "four", "group_size": None}, None),
]


@pytest.mark.parametrize(("config", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_checkpoints_scheme_becomes_a_weight_format(config: dict[str, Any], expected: str | None) -> None:
    name = weight_format_of(config)
    assert name == expected
    if name is not None:
        assert get_weight_format(name).name == name


def test_deepseek_v4_has_experts_in_fp4_beside_fp8() -> None:
    config = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0"}
    assert weight_format_of(config, expert_dtype="fp4") == "fp8_mxfp4"


def test_a_few_layers_of_unquantized_attention_do_not_make_all_of_it_unquantized() -> None:
    ignore = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1, 2, 59)]
    assert weight_format_of({"quant_method": "fp8", "ignore": ignore}) == "fp8"
