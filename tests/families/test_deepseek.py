"""Latent attention families against figures of real model code (transformers 5.23 on the meta device, bf16)."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, IndexKeys, Latent
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.specs.config_json import read_config

LATENT = Latent(kv_lora_rank=512, qk_rope_head_dim=64)
INDEX = IndexKeys(head_dim=128)

# name, layers, bf16 bytes per token (from 3000 to 12000 tokens), parameters, active parameters: transformers 5.23
PUBLISHED = [
    ("deepseek-ai__DeepSeek-V2-Lite", 27, 31_104, 15_706_484_224, 2_661_150_208),
    ("deepseek-ai__DeepSeek-V3", 61, 70_272, 671_026_404_352, 37_552_282_624),
    ("deepseek-ai__DeepSeek-V3.2", 61, 85_888, 671_877_929_216, 38_403_807_488),
    ("moonshotai__Kimi-K2-Instruct", 61, 70_272, 1_026_408_209_408, 32_861_477_888),
    ("zai-org__GLM-5.1", 78, 109_824, 743_911_199_232, 41_784_709_632),
    ("zai-org__GLM-5.2", 78, 95_232, 743_377_000_704, 41_250_511_104),
]


def bytes_per_token(layers: tuple[Any, ...]) -> int:
    """Width of all rows of one token in 2-byte elements."""
    return sum(2 * part.num_heads * part.width for layer in layers for kind in layer for part in kind.parts())


@pytest.mark.parametrize(("name", "num_layers", "per_token", "total", "active"), PUBLISHED)
def test_bytes_and_parameters_agree_with_the_models_own_code(
    read_asset: Any, name: str, num_layers: int, per_token: int, total: int, active: int
) -> None:
    architecture = read_asset(name)
    assert architecture.num_layers == num_layers
    assert bytes_per_token(architecture.layers) == per_token
    assert architecture.parameters.total == total
    assert architecture.parameters.active == active


def test_deepseek_v3_stores_one_latent_per_layer_whatever_its_128_heads(read_asset: Any) -> None:
    architecture = read_asset("deepseek-ai__DeepSeek-V3")
    assert set(architecture.layers) == {(LATENT,)}
    assert architecture.num_heads == 128


def test_the_draft_layer_of_deepseek_v3_is_apart_from_the_model(read_asset: Any) -> None:
    architecture = read_asset("deepseek-ai__DeepSeek-V3")
    assert architecture.draft_layers == ((LATENT,),)
    # a decoder layer of 256 experts, eh_proj and three norms; the published 14 B includes embedding and head
    assert architecture.parameters.mtp == 11_610_067_968


def test_deepseek_v32_adds_index_keys_to_every_layer(read_asset: Any) -> None:
    assert set(read_asset("deepseek-ai__DeepSeek-V3.2").layers) == {(LATENT, INDEX)}


def test_glm_52_has_index_keys_on_21_of_78_layers(read_asset: Any) -> None:
    # vLLM 0.32's own layer specs: 21 indexer caches
    architecture = read_asset("zai-org__GLM-5.2")
    owners = [index for index, layer in enumerate(architecture.layers) if INDEX in layer]
    assert owners == [0, 1, 2, *range(6, 78, 4)]
    assert architecture.draft_layers == ((LATENT, INDEX),)


@pytest.mark.parametrize(
    "spelling",
    [
        {"indexer_types": ...},  # index_topk_freq 4 and index_skip_topk_offset 3 remain
        {"indexer_types": ..., "index_topk_pattern": "FFFSSS" + 18 * "FSSS"},
        {"indexer_types": ..., "index_topk_pattern": ["full"] * 3 + ["shared"] * 3 + 18 * (["full"] + ["shared"] * 3)},
    ],
)
def test_every_spelling_of_index_sharing_gives_the_same_layers(read_asset: Any, spelling: dict[str, Any]) -> None:
    assert read_asset("zai-org__GLM-5.2", **spelling) == read_asset("zai-org__GLM-5.2")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"indexer_types": ["full", "shared"]}, "indexer_types has 2 entries for 78 layers"),
        ({"indexer_types": 78 * ["shared"]}, "lets the first layer share an index"),
        ({"indexer_types": 78 * ["half"]}, "unknown entry 'half'"),
        ({"indexer_types": ..., "index_topk_pattern": 78 * "X"}, "unknown entry 'X'"),
        ({"indexer_types": ..., "index_topk_pattern": 4}, "unknown entry 4"),
        ({"mlp_layer_types": ["dense"]}, "mlp_layer_types has 1 entries for 78 layers"),
        ({"layer_types": ["indexed_attention"]}, "layer_types has 1 entries for 78 layers"),
        ({"layer_types": 78 * ["sliding_attention"]}, "unknown entry 'sliding_attention'"),
        ({"q_lora_rank": None}, "q_lora_rank must not be null"),
        ({"num_experts_per_tok": 257}, "must not exceed the 256 experts"),
        ({"kv_cache_layers": 3}, "'kv_cache_layers' is unknown and could change the cache"),
    ],
)
def test_a_contradiction_is_refused_by_the_name_of_its_key(
    read_asset: Any, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        read_asset("zai-org__GLM-5.2", **change)


@pytest.mark.parametrize(
    "key",
    [
        *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "vocab_size"),
        *("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"),
        *("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace"),
    ],
)
def test_a_trimmed_file_is_refused_by_the_name_of_the_missing_key(read_asset: Any, key: str) -> None:
    with pytest.raises(MissingKeyError, match=key):
        read_asset("deepseek-ai__DeepSeek-V3", **{key: ...})


MOE = {
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
}
MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


def test_the_language_model_of_deepseek_ocr_keeps_ordinary_attention() -> None:
    # deepseek-ai/DeepSeek-OCR's language_config: use_mla false, latent sizes zeroed
    values = {
        "model_type": "deepseek_v2",
        "use_mla": False,
        "hidden_size": 1280,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "num_hidden_layers": 12,
        "intermediate_size": 6848,
        "vocab_size": 129280,
        "lm_head": True,
        "rm_head": False,
        "q_lora_rank": None,
        "kv_lora_rank": None,
        "qk_nope_head_dim": 0,
        "qk_rope_head_dim": 0,
        "v_head_dim": 0,
        **MOE,
        "moe_intermediate_size": 896,
    }
    architecture = read_config(values, "config.json", "ocr").architecture
    assert set(architecture.layers) == {(FullAttention(num_kv_heads=10, head_dim=128),)}


def test_moonlight_16b_reads_without_query_compression() -> None:
    # moonshotai/Moonlight-16B-A3B: "16B with 3B activated" (arXiv 2502.16982)
    values = {
        "model_type": "deepseek_v3",
        "hidden_size": 2048,
        "intermediate_size": 11264,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_hidden_layers": 27,
        "num_nextn_predict_layers": 0,
        "vocab_size": 163840,
        "max_position_embeddings": 8192,
        "q_lora_rank": None,
        **MLA,
        **MOE,
    }
    architecture = read_config(values, "config.json", "moonlight").architecture
    assert architecture.layers == 27 * ((LATENT,),)
    assert architecture.max_context_tokens == 8192
    assert architecture.parameters is not None
    assert round(architecture.parameters.total / 1e9) == 16
    assert architecture.draft_layers == ()


# class defaults of transformers 5.23 (each those of the published checkpoint), with its own parameter counts
SMALL_KIN = {
    "minicpm3": (
        {"hidden_size": 2560, "intermediate_size": 6400, "num_hidden_layers": 62, "num_attention_heads": 40}
        | {"kv_lora_rank": 256, "q_lora_rank": 768, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32}
        | {"vocab_size": 73448, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256},
        Latent(kv_lora_rank=256, qk_rope_head_dim=32),
        4_073_875_968,
    ),
    "youtu": (
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 32, "num_attention_heads": 16}
        | MLA
        | {"q_lora_rank": 1536, "vocab_size": 128256},
        LATENT,
        1_961_560_064,
    ),
    "glm4_moe_lite": (
        {"hidden_size": 2048, "intermediate_size": 10240, "num_hidden_layers": 47, "num_attention_heads": 20}
        | {"kv_lora_rank": 512, "q_lora_rank": 768, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64}
        | {"v_head_dim": 256, "vocab_size": 154880, "moe_intermediate_size": 1536, "n_routed_experts": 64}
        | {"n_shared_experts": 1, "num_experts_per_tok": 4, "mlp_layer_types": ["dense"] + 46 * ["sparse"]},
        LATENT,
        29_943_390_976,
    ),
    "axk1": (
        {"hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61, "num_attention_heads": 64}
        | MLA
        | {"q_lora_rank": 1536, "vocab_size": 163840, "moe_intermediate_size": 2048, "n_routed_experts": 192}
        | {"n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1},
        LATENT,
        518_983_052_288,
    ),
}


@pytest.mark.parametrize("model_type", SMALL_KIN)
def test_kin_of_deepseek_count_as_their_own_code_does(model_type: str) -> None:
    values, latent, total = SMALL_KIN[model_type]
    architecture = read_config({"model_type": model_type, **values}, "config.json", model_type).architecture
    assert set(architecture.layers) == {(latent,)}
    assert architecture.parameters is not None
    assert architecture.parameters.total == total
