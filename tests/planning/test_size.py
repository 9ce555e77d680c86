"""Sizes of real configs, with the derivation of every figure beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from kvplan.core.errors import KvplanError, UnsupportedError, UsageError
from kvplan.core.model import Model
from kvplan.core.request import SizeResult

Size = Callable[..., SizeResult]
Load = Callable[[str], Model]

LLAMA_8B = "meta-llama__Llama-3.1-8B"
DEEPSEEK_V3 = "deepseek-ai__DeepSeek-V3"
DEEPSEEK_V32 = "deepseek-ai__DeepSeek-V3.2"
GEMMA_4 = "google__gemma-4-31B-it"
GPT_OSS = "openai__gpt-oss-20b"
QWEN_35 = "Qwen__Qwen3.5-27B"
WHISPER = "openai__whisper-large-v3"


def test_llama_8b_in_bf16(size: Size) -> None:
    result = size(LLAMA_8B, "128k")
    assert result.bytes_per_token == 2 * 8 * 128 * 2 * 32 == 131072
    assert result.geometry_bytes == 131072 * 131072
    assert result.allocated_bytes == result.geometry_bytes
    assert result.fixed_bytes_per_sequence == 0
    assert result.window_tokens == ()


def test_the_textbook_formula_counts_query_heads(size: Size) -> None:
    result = size(LLAMA_8B, "128k", concurrency=3)
    assert result.textbook_bytes == 2 * 32 * 131072 * 4096 * 2 * 3
    assert result.geometry_bytes * 4 == result.textbook_bytes  # 32 query heads, 8 KV heads


def test_int8_per_token_head_carries_a_scale_for_each_head_and_side(size: Size) -> None:
    assert size(LLAMA_8B, 1000, kv_dtype="int8").bytes_per_token == 2112 * 32  # 2 x 8 x (128 + 4)


def test_nvfp4_rows_of_128_take_72_bytes(size: Size) -> None:
    result = size(LLAMA_8B, 1000, kv_dtype="nvfp4")
    assert result.bytes_per_token == 2 * 8 * 72 * 32
    assert round(result.saving_ratio, 2) == 3.56
    assert result.nominal_saving_ratio == 4


def test_a_pair_stores_keys_and_values_apart(size: Size) -> None:
    # llama.cpp blocks of 32: q8_0 34 bytes, q4_0 18 bytes
    assert size(LLAMA_8B, 1, kv_dtype="q8_0/q4_0").geometry_bytes == 32 * 8 * 4 * (34 + 18)


def test_latents_are_stored_once(size: Size) -> None:
    result = size(DEEPSEEK_V3, "64k")
    assert result.bytes_per_token == 61 * (512 + 64) * 2 == 70272
    assert result.geometry_bytes == 70272 * 65536


def test_packed_latent_rows_and_index_keys(size: Size) -> None:
    assert size(DEEPSEEK_V32, "128k", kv_dtype="fp8_ds_mla").bytes_per_token == 61 * (656 + 132) == 48068


def test_a_bare_window_stops_growing(size: Size) -> None:
    # 50 layers of 16 x 256 within 1024 tokens, 10 layers of 4 x 512 over all of them
    result = size(GEMMA_4, 262144)
    assert result.geometry_bytes == 22313697280 == 50 * 2 * 16 * 256 * 2 * 1024 + 10 * 2 * 4 * 512 * 2 * 262144
    assert result.window_tokens == (1024,)


def test_one_more_token_adds_what_has_not_stopped_growing(size: Size) -> None:
    assert size(GPT_OSS, 4096).bytes_per_token == 12 * 2 * 8 * 64 * 2 == 24576
    assert size(GPT_OSS, 127).bytes_per_token == 2 * 24576
    assert size(GPT_OSS, 128).bytes_per_token == 24576


def test_a_hybrid_has_rows_and_a_state(size: Size) -> None:
    result = size(QWEN_35, "128k", kv_dtype="fp8")
    rows = {layer.kind: layer for layer in result.layers}
    assert rows["full_attention"].geometry_bytes == 16 * 2 * 4 * 256 * 131072 == 4294967296
    # 48 heads x 128 x 128 in fp32, and 3 columns of 10240 channels in 16 bits
    assert result.fixed_bytes_per_sequence == 48 * (48 * 128 * 128 * 4 + 10240 * 3 * 2)
    assert result.geometry_bytes == 4294967296 + result.fixed_bytes_per_sequence


def test_a_searched_architecture_is_summed_layer_by_layer(size: Size) -> None:
    result = size("nvidia__Llama-3_3-Nemotron-Super-49B-v1", "32k")
    assert result.geometry_bytes == 49 * 2 * 8 * 128 * 2 * 32768
    assert sum(layer.count for layer in result.layers if layer.kind == "none") == 31


def test_multi_query_attention_has_one_head(size: Size) -> None:
    assert size("tiiuae__falcon-7b", 2048).bytes_per_token == 32 * 2 * 64 * 2


def test_cross_attention_is_fixed_by_the_encoder(size: Size) -> None:
    result = size(WHISPER, 448)
    cross = 32 * 2 * 20 * 64 * 2 * 1500
    assert result.fixed_bytes_per_sequence == cross == 245760000
    assert result.geometry_bytes == cross + 32 * 2 * 20 * 64 * 2 * 448
    assert size(WHISPER, 448, encoder_tokens="750").fixed_bytes_per_sequence * 2 == cross


def test_an_encoder_of_unknown_length_is_counted_like_the_context_and_said_so(size: Size) -> None:
    result = size("google__mt5-xxl", 1000)
    assert result.request.encoder_tokens == 1000
    assert any("--encoder-tokens" in warning for warning in result.warnings)


def test_an_encoder_length_without_cross_attention_is_refused(size: Size) -> None:
    with pytest.raises(UsageError, match="no cross-attention"):
        size(LLAMA_8B, 10, encoder_tokens="10")


def test_draft_layers_count_on_request(size: Size) -> None:
    plain, draft = size(DEEPSEEK_V3, 1000), size(DEEPSEEK_V3, 1000, include_draft=True)
    assert draft.geometry_bytes * 61 == plain.geometry_bytes * 62
    with pytest.raises(UsageError, match="no draft"):
        size(LLAMA_8B, 1000, include_draft=True)


def test_compressed_streams_add_a_row_for_every_four_or_128_tokens(size: Size) -> None:
    # DeepSeek-V4-Flash: 21 layers x (1024/4 + 256/4) + 20 layers x 1024/128 (transformers 5.23 measures the same)
    assert size("deepseek-ai__DeepSeek-V4-Flash", "128k").bytes_per_token == 21 * (256 + 64) + 20 * 8 == 6880


def test_a_context_beyond_the_models_is_sized_with_a_warning(size: Size) -> None:
    result = size(LLAMA_8B, "256k")
    assert result.geometry_bytes == 131072 * 262144
    assert any("beyond the model's maximum" in warning for warning in result.warnings)


# -- policies -----------------------------------------------------------------------------------------------------


def test_a_policy_keeps_its_share(size: Size) -> None:
    result = size(LLAMA_8B, "128k", policy="h2o:keep=0.2")
    kept = 2 * int(0.1 * 131072)  # heavy and recent, each rounded down
    assert result.layers[0].kept_tokens == kept
    assert result.geometry_bytes == 131072 * kept


def test_a_policy_prunes_rows_but_not_state_nor_encoder(size: Size) -> None:
    whole, pruned = size(QWEN_35, "32k"), size(QWEN_35, "32k", policy="window:1024")
    assert pruned.fixed_bytes_per_sequence == whole.fixed_bytes_per_sequence
    assert pruned.geometry_bytes == whole.fixed_bytes_per_sequence + 16 * 2 * 4 * 256 * 2 * 1024
    cross = size(WHISPER, 448, policy="window:100").fixed_bytes_per_sequence
    assert cross == size(WHISPER, 448).fixed_bytes_per_sequence


def test_age_tiers_store_each_age_in_its_own_format(size: Size) -> None:
    result = size(LLAMA_8B, 10000, policy="tiers:1000=bf16,4000=int8,rest=int4")
    row = 2 * 8 * 32
    assert result.geometry_bytes == row * (1000 * 256 + 4000 * 132 + 5000 * 68)


def test_pyramid_budgets_differ_by_layer_and_keep_their_mean(size: Size) -> None:
    result = size(LLAMA_8B, 8192, policy="pyramidkv:keep=0.5")
    kept = [layer.kept_tokens for layer in result.layers for _ in range(layer.count)]
    assert len(kept) == 32
    assert kept == sorted(kept, reverse=True)
    assert sum(kept) == 32 * 4096


def test_saved_bytes_are_measured_against_everything_kept_in_the_models_dtype(size: Size) -> None:
    result = size(LLAMA_8B, 10000, kv_dtype="fp8", policy="h2o:keep=0.5")
    assert result.uncompressed_bytes == 131072 * 10000
    assert result.saving_ratio == 4.0


# -- native layers --------------------------------------------------------------------------------------------------


def test_turboquant_leaves_the_first_and_last_two_layers_native(size: Size) -> None:
    # K and V rows of 128: 4 bits + 2 and 4 bits + 4 bytes; compression.md's 2.82x for 32 layers
    result = size(LLAMA_8B, 1000, kv_dtype="turboquant_4bit_nc")
    assert result.bytes_per_token == 8 * (28 * 134 + 4 * 512)
    assert round(result.saving_ratio, 2) == 2.82


def test_layers_can_be_skipped_by_index_or_by_window(size: Size) -> None:
    assert size(LLAMA_8B, 1, kv_dtype="fp8", skip_layers="0,-1").geometry_bytes == 2048 * 30 + 4096 * 2
    windows = size(GPT_OSS, 1, kv_dtype="fp8", skip_layers="sliding_window")
    assert windows.geometry_bytes == 12 * 1024 + 12 * 2048
    with pytest.raises(UsageError, match="32 layers"):
        size(LLAMA_8B, 1, skip_layers="32")
    with pytest.raises(UsageError, match="no layer index"):
        size(LLAMA_8B, 1, skip_layers="first")


# -- ranks ----------------------------------------------------------------------------------------------------------


def test_heads_are_split_until_none_are_left_to_split(size: Size) -> None:
    whole = size(LLAMA_8B, 1000).geometry_bytes
    assert size(LLAMA_8B, 1000, tp=8).allocated_bytes_per_rank == (whole // 8,) * 8
    assert size(LLAMA_8B, 1000, tp=16).allocated_bytes_per_rank == (whole // 8,) * 16  # replicated


def test_latents_are_on_every_rank(size: Size) -> None:
    result = size(DEEPSEEK_V32, 1000, tp=8)
    assert set(result.allocated_bytes_per_rank) == {result.geometry_bytes}
    assert result.allocated_bytes == 8 * result.geometry_bytes


def test_decode_context_ranks_share_the_tokens_of_a_latent(size: Size) -> None:
    assert size(DEEPSEEK_V3, 8000, tp=8, dcp=8).allocated_bytes == size(DEEPSEEK_V3, 8000).geometry_bytes


def test_pipeline_stages_are_uneven_where_layers_are(size: Size) -> None:
    result = size(DEEPSEEK_V3, 1000, pp=4)
    assert result.stage_layers == (15, 15, 16, 15)
    assert result.allocated_bytes_per_rank == tuple(1152 * 1000 * layers for layers in (15, 15, 16, 15))


def test_replicas_share_the_sequences(size: Size) -> None:
    result = size(LLAMA_8B, 1000, concurrency=3, dp=2, tp=2)
    half = 131072 * 1000 // 2
    assert result.allocated_bytes_per_rank == (2 * half, 2 * half, half, half)
    assert result.allocated_bytes == result.geometry_bytes
    assert result.allocated_bytes_per_sequence == 2 * half


def test_uneven_heads_are_counted_as_the_largest_rank_and_said_so(size: Size, load_asset: Load) -> None:
    model = load_asset("microsoft__phi-4")  # 40 query heads, 10 KV heads
    result = size(model, 1000, tp=4)
    assert result.allocated_bytes == 4 * 3 * 2 * 128 * 2 * 40 * 1000
    assert any("10 KV heads" in warning for warning in result.warnings)


def test_a_split_that_divides_no_heads_is_refused(size: Size) -> None:
    with pytest.raises(UsageError, match="32 attention heads"):
        size(LLAMA_8B, 1000, tp=3)


# -- weights --------------------------------------------------------------------------------------------------------


def test_the_share_of_the_cache_is_that_of_cache_and_weights_together(size: Size) -> None:
    result = size(LLAMA_8B, "128k", weights="bf16")
    assert result.weights_bytes == 2 * 8030261248
    assert result.kv_share_ratio == pytest.approx(2**34 / (2**34 + 2 * 8030261248))


def test_a_32k_textbook_cache_of_a_70b_is_38_percent(size: Size, load_asset: Load) -> None:
    layers = load_asset(LLAMA_8B).architecture.layers
    architecture = dataclasses.replace(
        load_asset(LLAMA_8B).architecture, layers=layers[:1] * 80, hidden_size=8192, num_heads=64
    )
    model = dataclasses.replace(load_asset(LLAMA_8B), architecture=architecture)
    textbook = size(model, "32k").textbook_bytes
    assert textbook == 85899345920
    assert round(textbook / (textbook + 141 * 10**9), 2) == 0.38


def test_quantized_checkpoints_are_weighed_as_their_config_says(load_asset: Load) -> None:
    assert load_asset(DEEPSEEK_V3).weights.weight_format == "fp8"


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (LLAMA_8B, {"kv_dtype": "fp8_ds_mla"}),  # packed latent rows for a model without latents
        ("microsoft__Phi-3-mini-4k-instruct", {"kv_dtype": "mxfp4:group=7"}),
        (DEEPSEEK_V3, {"kv_dtype": "turboquant_4bit_nc"}),
        (LLAMA_8B, {"kv_dtype": "int9"}),
        (LLAMA_8B, {"kv_dtype": "bf16/fp8/int8"}),
        (LLAMA_8B, {"kv_dtype": ""}),
        (LLAMA_8B, {"policy": "h2o:keep=0"}),
        (LLAMA_8B, {"policy": "h2o:keep=1.5"}),
        (LLAMA_8B, {"policy": "nothing"}),
        (LLAMA_8B, {"policy": "tiers:1024=bf16"}),
        (LLAMA_8B, {"policy": "tiers:1024=nope,rest=drop"}),
        (LLAMA_8B, {"concurrency": 0}),
    ],
)
def test_impossible_requests_are_refused_in_one_line(size: Size, model: str, words: dict[str, object]) -> None:
    with pytest.raises(KvplanError) as caught:
        size(model, 1000, **words)
    assert "\n" not in caught.value.message


def test_blocks_that_do_not_divide_a_row_are_refused(size: Size) -> None:
    with pytest.raises(UnsupportedError, match="32 elements together"):
        size("microsoft__phi-2", 1000, kv_dtype="q8_0")  # head_dim 80
