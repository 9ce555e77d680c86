"""gpt-oss, Trinity, Laguna, MiMo and Step: where windowed layers stand, and what differs between them and full ones."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, SlidingWindow
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.specs.config_json import read_config

STEP_35_FLASH = {
    "model_type": "step3p5",
    "hidden_size": 4096,
    "intermediate_size": 11264,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "num_attention_groups": 8,
    "head_dim": 128,
    "vocab_size": 128896,
    "max_seq_len": 262144,
    "num_nextn_predict_layers": 3,
    "layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 12,
    "sliding_window": 512,
    "attention_other_setting": {
        "attention_type": "sliding_attention",
        "num_attention_heads": 96,
        "num_attention_groups": 8,
        "head_dim": 128,
        "true_head_dim": 128,
    },
    "moe_layers_enum": ",".join(map(str, range(3, 45))),
    "moe_num_experts": 288,
    "moe_top_k": 8,
    "moe_intermediate_size": 1280,
    "share_expert_dim": 1280,
    "use_head_wise_attn_gate": True,
}
STEP_3 = {
    "model_type": "step3_text",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 64,
    "num_attention_groups": 1,
    "head_dim": 256,
    "share_q_dim": 2048,
    "share_expert_dim": 5120,
    "moe_num_experts": 48,
    "moe_top_k": 3,
    "moe_intermediate_size": 5120,
    "moe_layers_enum": ",".join(map(str, range(4, 60))),
    "vocab_size": 128815,
    "max_seq_len": 65536,
}


def windows(layers: Any) -> list[int | None]:
    return [layer[0].window_tokens for layer in layers]


def test_gpt_oss_slides_first_and_then_in_turn(read_asset: Any) -> None:
    stated = read_asset("openai__gpt-oss-20b")
    assert windows(stated.layers) == [128, None] * 12
    assert read_asset("openai__gpt-oss-20b", layer_types=...) == stated


def test_trinitys_fourth_layers_are_full_with_or_without_layer_types(read_asset: Any) -> None:
    stated = read_asset("arcee-ai__Trinity-Mini")
    assert windows(stated.layers) == [2048, 2048, 2048, None] * 8
    assert read_asset("arcee-ai__Trinity-Mini", layer_types=...) == stated
    every_second = read_asset("arcee-ai__Trinity-Mini", layer_types=..., global_attn_every_n_layers=2)
    assert windows(every_second.layers) == [2048, None] * 16


def test_laguna_has_query_heads_per_layer_and_equal_kv_heads(read_asset: Any) -> None:
    laguna = read_asset("poolside__Laguna-XS.2")
    assert windows(laguna.layers) == [None, 512, 512, 512] * 10
    per_head, ungated = (read_asset("poolside__Laguna-XS.2", gating=gating).parameters for gating in (True, False))
    assert per_head.attention - ungated.attention == 2048 * (10 * 48 + 30 * 64)  # one logit per query head


def test_laguna_refuses_query_heads_that_do_not_fit(read_asset: Any) -> None:
    with pytest.raises(SpecError, match="num_attention_heads_per_layer has 3 entries for 40 layers"):
        read_asset("poolside__Laguna-XS.2", num_attention_heads_per_layer=[48, 64, 64])
    with pytest.raises(SpecError, match="no multiple of the 8 KV heads"):
        read_asset("poolside__Laguna-XS.2", num_attention_heads_per_layer=[49] * 40)


def test_mimos_windowed_layers_have_more_kv_heads_and_narrower_values(read_asset: Any) -> None:
    layers = read_asset("XiaomiMiMo__MiMo-V2-Flash").layers
    full = FullAttention(num_kv_heads=4, head_dim=192, v_head_dim=128)
    sliding = SlidingWindow(num_kv_heads=8, head_dim=192, v_head_dim=128, window=128)
    assert [index for index, layer in enumerate(layers) if layer == (full,)] == [0, 5, 11, 17, 23, 29, 35, 41, 47]
    assert [index for index, layer in enumerate(layers) if layer == (sliding,)] == [
        index for index in range(48) if index not in (0, 5, 11, 17, 23, 29, 35, 41, 47)
    ]


def test_the_draft_layer_of_mimo_slides_and_is_dense(read_asset: Any) -> None:
    """MiMo-V2-Flash report: 0.33B parameters each; vLLM 0.32 ``models/mimo_v2_mtp.py`` loads the first of three."""
    mimo = read_asset("XiaomiMiMo__MiMo-V2-Flash")
    assert mimo.draft_layers == (mimo.layers[1],)
    assert any("draft layers that its config does not state" in note for note in mimo.notes)
    assert round(mimo.parameters.mtp / 1e9, 2) == 0.33
    assert read_asset("XiaomiMiMo__MiMo-V2-Flash", num_nextn_predict_layers=3).draft_layers == (mimo.layers[1],) * 3


def test_mimo_saved_by_transformers_reads_alike(read_asset: Any) -> None:
    """transformers 5.23 adds both kinds of layer types and a window that is one larger than the published one."""
    types = ["full_attention" if layer == 0 or (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(48)]
    saved = read_asset(
        "XiaomiMiMo__MiMo-V2-Flash",
        sliding_window=129,
        layer_types=types,
        mlp_layer_types=["dense"] + ["sparse"] * 47,
        hybrid_layer_pattern=...,
    )
    assert saved == read_asset("XiaomiMiMo__MiMo-V2-Flash")


def test_step_35_has_the_published_size_and_three_draft_layers() -> None:
    step = read_config(STEP_35_FLASH, "config.json", "model").architecture
    assert windows(step.layers) == ([None, 512, 512, 512] * 12)[:45]
    assert windows(step.draft_layers) == [512, 512, 512]
    assert step.parameters is not None
    assert step.parameters.total / 1e9 == pytest.approx(196.8, rel=0.002)  # model card: 196.81B
    assert step.max_context_tokens == 262144


def test_step_3_stores_one_wide_kv_head_and_has_the_published_size() -> None:
    step = read_config(STEP_3, "config.json", "model").architecture
    assert set(step.layers) == {(FullAttention(num_kv_heads=1, head_dim=256),)}
    assert step.parameters is not None
    assert step.parameters.total / 1e9 == pytest.approx(316, rel=0.002)  # arXiv 2507.19427
    assert step.parameters.active is not None
    assert step.parameters.active / 1e9 == pytest.approx(38, rel=0.03)


def test_step_without_a_list_of_expert_layers_is_refused() -> None:
    trimmed = {key: value for key, value in STEP_3.items() if key != "moe_layers_enum"}
    with pytest.raises(MissingKeyError, match="moe_layers_enum"):
        read_config(trimmed, "config.json", "model")
    with pytest.raises(SpecError, match="beyond the 61 layers"):
        read_config({**STEP_3, "moe_layers_enum": "4,61"}, "config.json", "model")
