"""Published mixtures of experts and windowed decoders against real engines.

Layers: the specs of vLLM 0.32's own model classes (Solar Open, which it lacks: transformers 5.23's cache). Parameters
of the language model: transformers 5.23's own model code on the meta device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

# name -> {(kind, KV heads, head width, value width, window): layers}
LAYERS: dict[str, dict[tuple[str, int, int, int | None, int | None], int]] = {
    "mistralai__Mixtral-8x7B-v0.1": {("full_attention", 8, 128, 128, None): 32},
    "Qwen__Qwen1.5-MoE-A2.7B": {("full_attention", 16, 128, 128, None): 24},
    "Qwen__Qwen3-30B-A3B": {("full_attention", 4, 128, 128, None): 48},
    "ibm-granite__granite-3.0-1b-a400m-base": {("full_attention", 8, 64, 64, None): 24},
    "microsoft__Phi-mini-MoE-instruct": {("sliding_window", 8, 128, 128, 2047): 32},
    "databricks__dbrx-base": {("full_attention", 8, 128, 128, None): 40},
    "deepseek-ai__deepseek-moe-16b": {("full_attention", 16, 128, 128, None): 28},
    "MiniMaxAI__MiniMax-M2.5": {("full_attention", 8, 128, 128, None): 62},
    "MiniMaxAI__MiniMax-M3": {("full_attention", 4, 128, 128, None): 60, ("index_keys", 1, 128, None, None): 57},
    "zai-org__GLM-4.5-Air": {("full_attention", 8, 128, 128, None): 46},
    "tencent__Hy3-preview": {("full_attention", 8, 128, 128, None): 80},
    "upstage__Solar-Open-100B": {("full_attention", 8, 128, 128, None): 48},
    "openai__gpt-oss-20b": {("sliding_window", 8, 64, 64, 128): 12, ("full_attention", 8, 64, 64, None): 12},
    "arcee-ai__Trinity-Mini": {("sliding_window", 4, 128, 128, 2048): 24, ("full_attention", 4, 128, 128, None): 8},
    "poolside__Laguna-XS.2": {("full_attention", 8, 128, 128, None): 10, ("sliding_window", 8, 128, 128, 512): 30},
    "XiaomiMiMo__MiMo-V2-Flash": {("full_attention", 4, 192, 128, None): 9, ("sliding_window", 8, 192, 128, 128): 39},
    "meta-llama__Llama-4-Maverick-17B-128E": {
        ("chunked_local", 8, 128, 128, 8192): 36,
        ("full_attention", 8, 128, 128, None): 12,
    },
    "meta-llama__Llama-4-Scout-17B-16E": {
        ("chunked_local", 8, 128, 128, 8192): 36,
        ("full_attention", 8, 128, 128, None): 12,
    },
    "google__gemma-2b": {("full_attention", 1, 256, 256, None): 18},
    "unsloth__gemma-2-9b-it": {("sliding_window", 8, 256, 256, 4096): 21, ("full_attention", 8, 256, 256, None): 21},
    "google__gemma-3-1b-it": {("sliding_window", 1, 256, 256, 512): 22, ("full_attention", 1, 256, 256, None): 4},
    "google__gemma-3-4b-it": {("sliding_window", 4, 256, 256, 1024): 29, ("full_attention", 4, 256, 256, None): 5},
    "google__gemma-3-27b-it": {("sliding_window", 16, 128, 128, 1024): 52, ("full_attention", 16, 128, 128, None): 10},
    "google__gemma-4-12B-unified": {
        ("sliding_window", 8, 256, 256, 1024): 40,
        ("full_attention", 1, 512, 512, None): 8,
    },
    "google__gemma-4-26B-A4B": {("sliding_window", 8, 256, 256, 1024): 25, ("full_attention", 2, 512, 512, None): 5},
    "google__gemma-4-E4B-it": {("sliding_window", 2, 256, 256, 512): 20, ("full_attention", 2, 512, 512, None): 4},
}

# name -> parameters of the language model, and those that one token uses (None: a dense model)
PARAMETERS: dict[str, tuple[int, int | None]] = {
    "mistralai__Mixtral-8x7B-v0.1": (46_702_792_704, 12_879_925_248),
    "Qwen__Qwen1.5-MoE-A2.7B": (14_315_784_192, 2_689_173_504),
    "Qwen__Qwen3-30B-A3B": (30_532_122_624, 3_353_032_704),
    "ibm-granite__granite-3.0-1b-a400m-base": (1_334_625_280, 428_655_616),
    "microsoft__Phi-mini-MoE-instruct": (7_647_632_704, 2_362_809_664),
    "databricks__dbrx-base": (131_596_523_520, 36_469_708_800),
    "MiniMaxAI__MiniMax-M2.5": (228_689_748_992, 11_030_537_216),
    "zai-org__GLM-4.5-Air": (106_852_245_504, 13_424_123_904),
    "tencent__Hy3-preview": (295_033_528_320, 20_675_715_072),
    "upstage__Solar-Open-100B": (102_651_793_408, 12_054_827_008),
    "openai__gpt-oss-20b": (20_914_757_184, 4_187_440_704),
    "arcee-ai__Trinity-Mini": (26_123_974_400, 3_474_732_800),
    "poolside__Laguna-XS.2": (33_442_617_088, 3_017_135_872),
    "XiaomiMiMo__MiMo-V2-Flash": (308_778_768_832, 15_445_924_288),
    "meta-llama__Llama-4-Maverick-17B-128E": (400_711_848_960, 17_184_691_200),
    "meta-llama__Llama-4-Scout-17B-16E": (107_769_861_120, 17_172_894_720),
    "google__gemma-2b": (2_506_172_416, None),
    "unsloth__gemma-2-9b-it": (9_241_705_984, None),
    "google__gemma-3-1b-it": (999_885_952, None),
    "google__gemma-3-4b-it": (3_880_263_168, None),
    "google__gemma-3-27b-it": (27_009_346_304, None),
    "google__gemma-4-12B-unified": (11_907_350_272, None),
    "google__gemma-4-26B-A4B": (25_233_141_760, 3_822_530_560),
    "google__gemma-4-E4B-it": (7_463_013_376, None),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree_with_vllms_own_specs(read_asset: Any, name: str) -> None:
    layers = read_asset(name).layers
    counts = Counter((kind.kind, *kind.head_shape(), kind.window_tokens) for layer in layers for kind in layer)
    del counts["shared", None, None, None, None]  # a layer that stores nothing has no spec
    assert counts == LAYERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_agree_with_the_models_own_code(read_asset: Any, name: str) -> None:
    parameters = read_asset(name).parameters
    assert (parameters.total - parameters.towers, parameters.active) == PARAMETERS[name]
