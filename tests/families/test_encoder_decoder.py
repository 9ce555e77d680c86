"""Encoder-decoder families against figures of real model code (transformers 5.23 on the meta device, bf16)."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import CrossAttention, FullAttention
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.specs.config_json import read_config

# name, decoder layers, heads, head_dim, parameters, encoder tokens; transformers 5.23
PUBLISHED = [
    ("facebook__bart-base", 6, 12, 64, 139_420_416, None),
    ("facebook__m2m100-12B-last-ckpt", 24, 16, 256, 11_802_198_016, None),
    ("google__byt5-xl", 12, 32, 64, 3_736_818_688, None),
    ("google__mt5-xxl", 24, 64, 64, 11_896_598_528, None),
    ("google__switch-c-2048", 12, 30, 64, 786_234_286_080, None),
    ("openai__whisper-large-v3", 32, 20, 64, 1_543_490_560, 1500),
]


@pytest.mark.parametrize(("name", "num_layers", "heads", "head_dim", "total", "encoder_tokens"), PUBLISHED)
def test_layers_and_parameters_agree_with_the_models_own_code(
    read_asset: Any, name: str, num_layers: int, heads: int, head_dim: int, total: int, encoder_tokens: int | None
) -> None:
    architecture = read_asset(name)
    layer = (
        FullAttention(num_kv_heads=heads, head_dim=head_dim),
        CrossAttention(num_kv_heads=heads, head_dim=head_dim),
    )
    assert architecture.layers == num_layers * (layer,)
    assert architecture.parameters.total == total
    assert architecture.encoder_tokens == encoder_tokens


def test_byt5_xl_counts_its_12_decoder_layers_and_not_its_36_encoder_layers(read_asset: Any) -> None:
    assert read_asset("google__byt5-xl").num_layers == 12


def test_a_t5_decoder_is_as_deep_as_the_encoder_unless_stated(read_asset: Any) -> None:
    assert read_asset("google__byt5-xl", num_decoder_layers=...).num_layers == 36


def test_whisper_writes_at_most_448_tokens(read_asset: Any) -> None:
    assert read_asset("openai__whisper-large-v3").max_context_tokens == 448


def test_switch_c_holds_its_experts_in_the_encoder_alone(read_asset: Any) -> None:
    # 15 of 12 decoder layers are asked for, a step of 0: transformers 5.23 builds 15 expert modules, all encoder
    parameters = read_asset("google__switch-c-2048").parameters
    assert parameters.experts == 0
    assert parameters.towers > 785_173_708_800  # 15 x 2048 experts of 2 x 2080 x 6144


# Class defaults of transformers 5.23 with the parameters of its own models
BART = {"encoder_layers": 12, "encoder_ffn_dim": 4096, "encoder_attention_heads": 16} | {
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "d_model": 1024,
    "max_position_embeddings": 1024,
}
MARIAN_UNTIED = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 59000, "tie_word_embeddings": False}
T5 = {"d_model": 512, "d_kv": 64, "relative_attention_num_buckets": 32}
DEFAULTS = [
    ("bart", BART | {"vocab_size": 50265}, 406_291_456),
    ("mbart", BART | {"vocab_size": 50265}, 406_295_552),
    ("m2m_100", BART | {"vocab_size": 128112}, 483_905_536),
    ("marian", BART | {"vocab_size": 58101}, 414_307_328),
    ("marian", BART | {"vocab_size": 58101} | MARIAN_UNTIED, 535_139_328),
    ("pegasus", BART | {"vocab_size": 50265}, 406_287_360),
    (
        "nllb-moe",
        BART | {"vocab_size": 128112, "num_experts": 128, "encoder_sparse_step": 4, "decoder_sparse_step": 4},
        6_880_712_704,
    ),
    (
        "blenderbot",
        {"encoder_layers": 2, "encoder_ffn_dim": 10240, "encoder_attention_heads": 32, "d_model": 2560}
        | {"decoder_layers": 24, "decoder_ffn_dim": 10240, "decoder_attention_heads": 32}
        | {"vocab_size": 8008, "max_position_embeddings": 128, "layernorm_variant": "prelayernorm"},
        2_696_268_800,
    ),
    (
        "blenderbot-small",
        {"encoder_layers": 8, "encoder_ffn_dim": 2048, "encoder_attention_heads": 16, "d_model": 512}
        | {"decoder_layers": 8, "decoder_ffn_dim": 2048, "decoder_attention_heads": 16}
        | {"vocab_size": 50265, "max_position_embeddings": 512},
        85_113_344,
    ),
    ("t5", T5 | {"d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128}, 60_506_624),
    ("umt5", T5 | {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "vocab_size": 250112}, 172_122_112),
    (
        "longt5",
        T5
        | {"d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128}
        | {"encoder_attention_type": "transient-global", "local_radius": 127, "global_block_size": 16},
        60_509_952,
    ),
    (
        "switch_transformers",
        {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "vocab_size": 32128}
        | {"num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 0, "num_experts": 8},
        339_338_496,
    ),
]


@pytest.mark.parametrize(("model_type", "values", "total"), DEFAULTS)
def test_kin_count_as_their_own_code_does(model_type: str, values: dict[str, Any], total: int) -> None:
    architecture = read_config({"model_type": model_type, **values}, "config.json", model_type).architecture
    assert architecture.parameters is not None
    assert architecture.parameters.total == total


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("google__mt5-xxl", {"architectures": ["MT5EncoderModel"]}, "an encoder without a decoder"),
        ("facebook__bart-base", {"is_encoder_decoder": False}, "is_encoder_decoder must be true"),
        ("facebook__bart-base", {"decoder_attention_heads": 7}, "no multiple of the 7 decoder attention heads"),
    ],
)
def test_half_a_model_is_refused(read_asset: Any, name: str, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        read_asset(name, **change)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("facebook__bart-base", "decoder_layers"),
        ("facebook__bart-base", "decoder_attention_heads"),
        ("google__byt5-xl", "d_kv"),
        ("google__byt5-xl", "num_heads"),
        ("openai__whisper-large-v3", "max_source_positions"),
    ],
)
def test_a_trimmed_file_is_refused_by_the_name_of_the_missing_key(read_asset: Any, name: str, key: str) -> None:
    with pytest.raises(MissingKeyError, match=key):
        read_asset(name, **{key: ...})
