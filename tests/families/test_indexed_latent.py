"""Descendants of DeepSeek-V3.2; parameter counts are those of transformers 5.23's classes with their defaults."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import IndexKeys, Latent, Shared
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

INDEX = IndexKeys(head_dim=128)
LATENT = Latent(kv_lora_rank=512, qk_rope_head_dim=64)

AXK2 = {
    "model_type": "axk2",
    "vocab_size": 163840,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 128,
    "num_experts_per_tok": 8,
    "kv_lora_rank": 128,
    "q_lora_rank": 384,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 16,
    "gated_norm_rank": 16,
}
HY_V4 = {
    "model_type": "hy_v4",
    "vocab_size": 120832,
    "hidden_size": 2816,
    "intermediate_size": 6912,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 16,
    "hc_mult": 4,
}
MISTRAL_LARGE_4 = {
    "model_type": "mistral_large4_text",
    "vocab_size": 204800,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "moe_intermediate_size": 6144,
    "num_hidden_layers": 72,
    "num_attention_heads": 64,
    "n_shared_experts": 1,
    "n_routed_experts": 128,
    "num_experts_per_tok": 4,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 128,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 32,
}
PAIRS = [layer // 2 * 2 for layer in range(72)]


def read(values: dict[str, Any], **changes: Any) -> Architecture:
    return read_config(values | changes, "config.json", "model").architecture


def total(architecture: Architecture) -> int:
    assert architecture.parameters is not None
    return architecture.parameters.total


def test_axk2_indexes_every_layer() -> None:
    architecture = read(AXK2)
    assert architecture.layers == 48 * ((Latent(kv_lora_rank=128, qk_rope_head_dim=32), INDEX),)
    assert total(architecture) == 20_314_494_976


def test_hunyuan_4_indexes_layers_0_1_5_9_and_so_on() -> None:
    architecture = read(HY_V4)
    owners = [index for index, layer in enumerate(architecture.layers) if INDEX in layer]
    assert owners == [0, *range(1, 34, 4)]
    assert all(LATENT in layer for layer in architecture.layers)
    assert total(architecture) == 58_278_193_133


def test_mistral_large_4_stores_no_rotary_key_in_every_fourth_layer() -> None:
    architecture = read(MISTRAL_LARGE_4)
    assert architecture.layers == 18 * (*(3 * ((LATENT, INDEX),)), (Latent(kv_lora_rank=512), INDEX))
    # the text model's class has no output head: 204800 x 6144 more
    assert total(architecture) == 1_048_859_911_680 + 204_800 * 6144


def test_a_layer_that_reads_another_layers_latent_may_still_own_an_index() -> None:
    architecture = read(MISTRAL_LARGE_4, kv_source_layers=PAIRS, index_topk_freq=4)
    assert architecture.layers[:4] == (
        (LATENT, INDEX),
        (Shared(source_layer=0), INDEX),
        (LATENT,),
        (Shared(source_layer=2),),
    )
    assert total(architecture) == 1_047_353_011_136 + 204_800 * 6144


@pytest.mark.parametrize(
    ("values", "change", "problem"),
    [
        (MISTRAL_LARGE_4, {"kv_source_layers": [1, *range(1, 72)]}, "lets layer 0 read layer 1"),
        (MISTRAL_LARGE_4, {"kv_source_layers": [0, 0, 1, *range(3, 72)]}, "lets layer 2 read layer 1"),
        (MISTRAL_LARGE_4, {"kv_source_layers": [0]}, "has 1 entries for 72 layers"),
        (MISTRAL_LARGE_4, {"no_rope_layers": [1]}, "has 1 entries for 72 layers"),
        (AXK2, {"q_lora_rank": None}, "q_lora_rank must not be null"),
    ],
)
def test_a_contradiction_is_refused(values: dict[str, Any], change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        read(values, **change)
