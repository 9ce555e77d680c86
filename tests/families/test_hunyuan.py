"""Hunyuan V1: cross-layer attention, per-layer lists, the dense models."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, Shared
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

A13B = {
    "model_type": "hunyuan_v1_moe",
    "hidden_size": 4096,
    "intermediate_size": 3072,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "attention_head_dim": 128,
    "num_experts": 64,
    "moe_topk": [8] * 32,
    "moe_intermediate_size": [3072] * 32,
    "num_shared_expert": [1] * 32,
    "use_mixed_mlp_moe": True,
    "use_cla": False,
    "cla_share_factor": 2,
    "tie_word_embeddings": True,
    "vocab_size": 128167,
}
LARGE = {
    "model_type": "hunyuan",
    "hidden_size": 6400,
    "intermediate_size": 18304,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "num_experts": 16,
    "moe_topk": 1,
    "num_shared_expert": 1,
    "use_mixed_mlp_moe": True,
    "use_cla": True,
    "cla_share_factor": 2,
    "use_qk_norm": True,
    "tie_word_embeddings": True,
    "vocab_size": 128512,
}


def read(values: dict[str, Any]) -> Architecture:
    return read_config(values, "config.json", "model").architecture


def test_a13b_has_the_published_size_and_no_shared_cache() -> None:
    hunyuan = read(A13B)
    assert set(hunyuan.layers) == {(FullAttention(num_kv_heads=8, head_dim=128),)}
    assert hunyuan.parameters is not None
    assert hunyuan.parameters.active is not None
    assert hunyuan.parameters.total / 1e9 == pytest.approx(80.4, rel=0.001)  # model card: 80B with 13B active
    assert hunyuan.parameters.active / 1e9 == pytest.approx(13, rel=0.03)


def test_every_second_layer_of_hunyuan_large_reads_the_layer_before_it() -> None:
    """arXiv 2411.02265: cross-layer attention every two layers; 389B parameters."""
    large = read(LARGE)
    assert large.layers == 32 * ((FullAttention(num_kv_heads=8, head_dim=80),), (Shared(),))
    sources = [kind.source_layer for layer in large.layers for kind in layer if isinstance(kind, Shared)]
    assert sources == list(range(0, 64, 2))
    assert large.parameters is not None
    assert large.parameters.total / 1e9 == pytest.approx(389, rel=0.002)


def test_sharing_saves_the_key_and_value_projections_of_the_layers_that_share() -> None:
    with_sharing, without = (read({**LARGE, "use_cla": use_cla}).parameters for use_cla in (True, False))
    assert with_sharing is not None
    assert without is not None
    assert without.attention - with_sharing.attention == 32 * 2 * 6400 * 8 * 80


def test_one_expert_is_a_dense_layer_and_skipped_layers_are_dense() -> None:
    dense = read({**A13B, "num_experts": 1, "moe_topk": 1}).parameters
    assert dense is not None
    assert (dense.experts, dense.mlp) == (0, 32 * 3 * 4096 * 3072)
    skipped = read({**A13B, "moe_layer_num_skipped": 2}).parameters
    assert skipped is not None
    assert skipped.experts == 30 * 64 * 3 * 4096 * 3072


def test_lists_of_another_length_and_latent_attention_are_refused() -> None:
    with pytest.raises(SpecError, match="moe_topk has 2 entries for 32 layers"):
        read({**A13B, "moe_topk": [8, 8]})
    with pytest.raises(SpecError, match="use_mla"):
        read({**A13B, "use_mla": True})
