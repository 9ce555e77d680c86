"""DeepSeekMoE layouts: sizes of published models without an asset, other spellings, draft layers."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.specs.config_json import read_config

# model card or report: DeepSeekMoE (arXiv 2401.06066), dots.llm1 (2506.05767), Ling-lite (2503.05139), Ling-mini-2.0
DOTS = {
    "model_type": "dots1",
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "max_window_layers": 62,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LING_LITE = {
    "model_type": "bailing_moe",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "moe_intermediate_size": 1408,
    "num_experts": 64,
    "num_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 0,
    "norm_head": True,
    "use_bias": False,
    "use_qkv_bias": False,
    "max_window_layers": 28,
    "vocab_size": 126464,
}
LING_MINI_2 = {
    **LING_LITE,
    "intermediate_size": 5120,
    "num_hidden_layers": 20,
    "moe_intermediate_size": 512,
    "moe_shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "use_qk_norm": True,
    "moe_router_enable_expert_bias": True,
    "vocab_size": 157184,
}


@pytest.mark.parametrize(
    ("values", "total_billions", "active_billions"),
    [(DOTS, 142.8, 14.0), (LING_LITE, 16.8, 2.75), (LING_MINI_2, 16.26, 1.43)],
)
def test_sizes_are_the_published_ones(values: dict[str, Any], total_billions: float, active_billions: float) -> None:
    parameters = read_config(values, "config.json", "model").architecture.parameters
    assert parameters is not None
    assert parameters.active is not None
    assert parameters.total / 1e9 == pytest.approx(total_billions, rel=0.002)
    assert parameters.active / 1e9 == pytest.approx(active_billions, rel=0.01)


def test_deepseek_moe_16b_has_the_published_sizes(read_asset: Any) -> None:
    parameters = read_asset("deepseek-ai__deepseek-moe-16b").parameters
    assert parameters.total / 1e9 == pytest.approx(16.4, rel=0.002)
    assert parameters.active / 1e9 == pytest.approx(2.8, rel=0.02)


def test_a_null_number_of_experts_makes_every_layer_dense(read_asset: Any) -> None:
    parameters = read_asset("deepseek-ai__deepseek-moe-16b", n_routed_experts=None).parameters
    assert parameters.experts == 0
    assert parameters.active is None
    assert parameters.mlp == 28 * 3 * 2048 * 10944


def test_dots_slides_from_max_window_layers_on() -> None:
    values = {**DOTS, "sliding_window": 128, "use_sliding_window": True, "max_window_layers": 60}
    layers = read_config(values, "config.json", "model").architecture.layers
    assert [layer[0].window_tokens for layer in layers] == [None] * 60 + [128] * 2


@pytest.mark.parametrize("name", ["zai-org__GLM-4.5-Air", "tencent__Hy3-preview"])
def test_the_draft_layer_is_a_layer_of_the_model(read_asset: Any, name: str) -> None:
    architecture = read_asset(name)
    assert architecture.draft_layers == (architecture.layers[-1],)
    assert architecture.parameters.mtp > 0


def test_the_width_of_a_head_is_not_hidden_over_heads(read_asset: Any) -> None:
    assert read_asset("zai-org__GLM-4.5-Air").layers[0] == (FullAttention(num_kv_heads=8, head_dim=128),)
    with pytest.raises(SpecError, match="no multiple of the 96 attention heads"):
        read_asset("zai-org__GLM-4.5-Air", head_dim=...)


def test_absent_dense_layers_are_the_class_default(read_json: Any) -> None:
    values = read_json("tencent__Hy3-preview")
    stated = read_config(values, "config.json", "model")
    del values["first_k_dense_replace"]
    assumed = read_config(values, "config.json", "model")
    assert assumed.architecture.layers == stated.architecture.layers
    assert assumed.architecture.parameters == stated.architecture.parameters
    assert any("first_k_dense_replace is absent" in note for note in assumed.notes)


def test_a_trimmed_file_names_the_missing_key(read_asset: Any) -> None:
    with pytest.raises(MissingKeyError, match="moe_intermediate_size"):
        read_asset("zai-org__GLM-4.5-Air", moe_intermediate_size=...)
