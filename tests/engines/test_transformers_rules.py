"""transformers' rules one by one: examples worked by hand from its source, and laws that hold for every model."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.core.attention import SlidingWindow
from kvplan.core.engine import EngineRequest, EngineSettings, ModelFacts
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.geometry import CacheChoice, place_layers
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.request import SizeResult
from kvplan.engines import get_engine
from kvplan.engines.transformers.architectures import MIXED_KV, SHARDED_KV, WHOLE_KV
from kvplan.families import all_families
from kvplan.formats import parse_kv_format
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model
from kvplan.policies.none import POLICY as KEEP_ALL
from kvplan.specs.catalogue import load_packaged

STATIC = "transformers:cache=static"
GIB = 1024**3


@cache
def load(name: str) -> Model:
    return load_packaged(name)


def size(name: str, tokens: int, engine: str = "transformers", **words: Any) -> SizeResult:
    chosen = get_engine(engine)
    parallel = Parallel(**{size: words.pop(size) for size in ("tp", "pp", "dp", "dcp") if size in words})
    choices = EngineSettings(**{
        setting: words.pop(setting)
        for setting in ("kv_memory_bytes", "max_model_len", "block_tokens", "max_num_seqs")
        if setting in words
    })  # fmt: skip
    asked = RequestWords(parallel=parallel, settings=choices, **words)
    return size_model(load(name), build_request(load(name), tokens, asked, chosen), chosen)


def tokens_by_kind(result: SizeResult) -> dict[str, int]:
    return {layer.kind: layer.allocated_tokens for layer in result.layers}


# -- what is kept ------------------------------------------------------------------------------------------------


def test_full_attention_keeps_every_token() -> None:
    # 32 layers x 2 x 8 heads x 128 x 2 bytes x 1000 tokens: no block, no reserve
    assert size("llama-3.1-8b", 1000).allocated_bytes == 131_072_000


def test_a_dynamic_window_keeps_one_token_less_and_a_static_one_does_not() -> None:
    # cache_utils.py: DynamicSlidingWindowLayer keeps sliding_window - 1, StaticSlidingWindowLayer min(window, length)
    assert tokens_by_kind(size("gemma-3-27b", 12000)) == {"sliding_window": 1023, "full_attention": 12000}
    assert tokens_by_kind(size("gemma-3-27b", 12000, STATIC)) == {"sliding_window": 1024, "full_attention": 12000}


def test_a_prompt_within_the_window_is_kept_whole() -> None:
    assert tokens_by_kind(size("gemma-3-27b", 1023))["sliding_window"] == 1023
    assert tokens_by_kind(size("gemma-3-27b", 700))["sliding_window"] == 700


def test_a_chunk_counts_as_a_window() -> None:
    assert tokens_by_kind(size("llama-4-scout", 20000))["chunked_local"] == 8191


def test_views_hold_the_whole_prompt_until_the_next_token() -> None:
    # gemma-3-27b at 12,000: 1,418,821,632 bytes are shown, 6,094,848,000 held (62 layers x 98,304,000), 4.35 GiB more;
    # then one row of 8,192 bytes for each of 52 windows
    result = size("gemma-3-27b", 12000)
    assert result.allocated_bytes == 1_418_821_632
    assert any("views hold 4.35 GiB more" in note and "416.00 KiB more" in note for note in result.allocation.notes)
    assert not any("views" in note for note in size("gemma-3-27b", 12000, STATIC).allocation.notes)


def test_a_static_cache_has_its_longest_length_from_the_first_token_on() -> None:
    assert size("llama-3.1-8b", 100, STATIC, max_model_len=8192).allocated_bytes == 8192 * 131_072


def test_a_window_of_one_keeps_everything() -> None:
    # a slice from -1 + 1 = 0 on is the whole tensor
    native = parse_kv_format("bf16", "bf16")
    layer = (SlidingWindow(num_kv_heads=1, head_dim=64, window=1),)
    request = EngineRequest(
        stages=(tuple(place_layers([layer], native)),),
        facts=ModelFacts(family="llama", dtype="bf16", num_heads=1, hidden_size=64),
        choice=CacheChoice(kv_format=native, policy=KEEP_ALL),
        context_tokens=500,
    )
    assert get_engine("transformers").allocate(request).stages[0].groups[0].allocated_tokens == 500
    assert get_engine(STATIC).allocate(request).stages[0].groups[0].allocated_tokens == 1


# -- architectures -----------------------------------------------------------------------------------------------


def test_falcon_caches_every_query_head() -> None:
    # 60 layers x 2 x 128 heads x 64 x 2 bytes, 16 times its 8 KV heads; the 7B has one KV head and caches one
    assert size("falcon-40b", 1000).allocated_bytes == 60 * 2 * 128 * 64 * 2 * 1000
    assert size("falcon-7b", 1000).allocated_bytes == size("falcon-7b", 1000, "none").allocated_bytes


def test_a_convolution_keeps_k_columns_and_a_state_fp32() -> None:
    # falcon-mamba-7b: 64 layers x 8192 channels x (4 columns x 2 bytes + 16 x 4 bytes)
    assert size("falcon-mamba-7b", 1000).allocated_bytes == 64 * 8192 * (4 * 2 + 16 * 4)


def test_deepseek_v4_buffers_only_unfinished_groups() -> None:
    # 100 + 128 x 20 tokens: two plain windows twice 127 rows of 1024 bytes, 41 windows once; a row of 1024 and an
    # index row of 256 bytes for each 4 tokens in 21 layers, a row for each 128 in 20; 100 tokens wait for those 20
    # layers, none for the others, which keep half of their last group
    rows = (2 * 2 + 41) * 127 * 1024 + 21 * 665 * (1024 + 256) + 20 * 20 * 1024
    buffers = 20 * 100 * 2 * 512 * 2 + 21 * 2 * 4 * (512 + 128) * 2
    assert size("deepseek-v4-flash", 2660).allocated_bytes == rows + buffers


def test_indexed_latent_attention_is_stored_in_sixteen_bits() -> None:
    # 61 layers x (512 + 64 + 128) x 2 bytes
    assert size("deepseek-v3.2", 1000).allocated_bytes == 61 * 704 * 2 * 1000


def test_state_on_modules_is_counted_and_said() -> None:
    notes = size("recurrentgemma-2b", 1000).allocation.notes
    assert any("on the model's modules" in note for note in notes)


def test_a_class_that_transformers_lacks_is_said() -> None:
    assert any("repository's own code" in note for note in size("hymba-1.5b", 1000).allocation.notes)


# -- quantized caches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "bits"), [("quanto4", 4.5), ("quanto2", 2.5), ("hqq8", 8.5), ("hqq1", 1.5)])
def test_a_group_of_64_costs_four_bytes_more(word: str, bits: float) -> None:
    # measured with optimum-quanto 0.2.7 and hqq 0.2.8: scale and zero point in the model's dtype
    assert size("llama-3.1-8b", 1000, kv_dtype=word).allocated_bytes == 32 * 2 * 8 * 128 * 1000 * bits / 8


def test_tokens_that_wait_in_the_residual_have_the_models_dtype() -> None:
    # 1000 tokens, 127 of them since the last flush: 873 at 4.5 bits and 127 at 16
    per_token = 32 * 2 * 8 * 128
    expected = per_token * 873 * 9 // 16 + per_token * 127 * 2
    assert size("llama-3.1-8b", 1000, kv_dtype="quanto:bits=4,residual=127").allocated_bytes == expected


def test_fp8_has_one_scale_for_a_tensor_of_the_whole_batch() -> None:
    one, four = (size("llama-3.1-8b", 1000, kv_dtype="fp8", concurrency=count).allocated_bytes for count in (1, 4))
    assert one == 32 * (2 * 8 * 128 * 1000 + 2 * 4)
    assert four == 32 * (4 * 2 * 8 * 128 * 1000 + 2 * 4)


def test_a_quantized_cache_is_quanto_in_four_bits() -> None:
    named = size("llama-3.1-8b", 1000, "transformers:cache=quantized").allocated_bytes
    assert named == size("llama-3.1-8b", 1000, kv_dtype="quanto4").allocated_bytes


def test_a_model_in_fp32_stores_fp32() -> None:
    for name in ("llama-3.1-8b", "deepseek-v4-flash"):
        sixteen = size(name, 1000).allocated_bytes
        assert size(name, 1000, kv_dtype="float32").allocated_bytes == 2 * sixteen


# -- ranks -------------------------------------------------------------------------------------------------------


def test_a_plan_that_splits_keys_splits_the_cache() -> None:
    whole = size("llama-3.1-8b", 1000).allocated_bytes
    assert size("llama-3.1-8b", 1000, tp=4).allocated_bytes_per_rank == (whole // 4,) * 4


def test_a_plan_that_does_not_leaves_all_heads_on_every_rank() -> None:
    # gpt-oss has no base_model_tp_plan for its keys; a latent is one row for all heads
    for name in ("gpt-oss-20b", "deepseek-v3"):
        result = size(name, 1000, tp=2)
        assert result.allocated_bytes_per_rank == (size(name, 1000).allocated_bytes,) * 2
        assert any("every rank caches all heads" in note for note in result.allocation.notes)


def test_stages_add_up() -> None:
    assert size("llama-3.1-8b", 1000, pp=2).allocated_bytes == size("llama-3.1-8b", 1000).allocated_bytes


def test_every_family_is_listed_once() -> None:
    assert not SHARDED_KV & WHOLE_KV
    assert not MIXED_KV & (SHARDED_KV | WHOLE_KV)
    assert {family.name for family in all_families()} >= SHARDED_KV | WHOLE_KV | MIXED_KV


# -- capacity ----------------------------------------------------------------------------------------------------


def test_a_memory_holds_what_is_left_after_division() -> None:
    # 10 GiB / 131,072 bytes = 81,920 tokens; 5 requests of 16,384
    result = size("llama-3.1-8b", 16384, kv_memory_bytes=10 * GIB)
    assert (result.allocation.capacity_tokens, result.allocation.max_concurrency) == (81920, 5.0)


@settings(max_examples=25)
@given(
    name=st.sampled_from(["llama-3.1-8b", "gemma-3-27b", "gpt-oss-20b", "qwen3-next-80b-a3b", "deepseek-v3"]),
    engine=st.sampled_from(["transformers", STATIC]),
    sequences=st.integers(1, 5),
    memory_bytes=st.integers(8 * GIB, 80 * GIB),
)
def test_one_token_more_does_not_fit(name: str, engine: str, sequences: int, memory_bytes: int) -> None:
    result = size(name, 100, engine, concurrency=sequences, kv_memory_bytes=memory_bytes)
    tokens, rest = divmod(result.allocation.capacity_tokens or 0, sequences)
    assert rest == 0
    assert size(name, tokens, engine, concurrency=sequences).allocated_bytes <= memory_bytes
    assert size(name, tokens + 1, engine, concurrency=sequences).allocated_bytes > memory_bytes


@settings(max_examples=30)
@given(sequences=st.integers(1, 100), tokens=st.integers(1, 20000))
def test_a_batch_is_a_multiple_of_one_sequence(sequences: int, tokens: int) -> None:
    for name in ("gemma-3-27b", "jamba-v0.1", "deepseek-v3.2"):
        one = size(name, tokens).allocated_bytes
        assert size(name, tokens, concurrency=sequences).allocated_bytes == sequences * one


def test_a_cache_that_does_not_grow_has_no_longest_context() -> None:
    allocation = size("falcon-mamba-7b", 1000, kv_memory_bytes=GIB).allocation
    assert allocation.capacity_tokens is None
    assert allocation.max_concurrency == GIB // (64 * 8192 * 72)


def test_a_memory_too_small_for_one_request_is_refused() -> None:
    with pytest.raises(DoesNotFitError, match=r"takes 1\.00 GiB of 512\.00 MiB"):
        size("llama-3.1-8b", 8192, kv_memory_bytes=GIB // 2)


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "engine", "words", "message"),
    [
        ("llama-3.1-8b", "transformers", {"kv_dtype": "nvfp4"}, "no cache dtype 'nvfp4'"),
        ("llama-3.1-8b", "transformers", {"kv_dtype": "int8"}, "no cache dtype 'int8'"),
        ("llama-3.1-8b", STATIC, {"kv_dtype": "quanto4"}, "no static cache in quanto4"),
        ("llama-3.1-8b", "transformers:cache=quantized", {"kv_dtype": "bf16"}, "no quantized cache in bf16"),
        ("gemma-3-27b", "transformers", {"kv_dtype": "quanto4"}, "sliding window layers"),
        ("gemma-4-e4b", "transformers", {"kv_dtype": "fp8"}, "shared, sliding window layers"),
        ("jamba-v0.1", "transformers", {"kv_dtype": "hqq4"}, "mamba1 layers"),
        ("deepseek-v3.2", "transformers", {"kv_dtype": "fp8"}, "index keys layers"),
        ("whisper-large-v3", "transformers", {"kv_dtype": "quanto4"}, "cross attention layers"),
        ("rwkv-4-7b", "transformers", {"kv_dtype": "fp8"}, "a list of states of its own"),
        ("deepseek-v4-flash", STATIC, {}, "no static cache for compressed streams"),
        ("llama-3.1-8b", "transformers", {"tp": 16}, "cannot split 8 KV heads over 16 ranks"),
        ("mixtral-8x7b", "transformers", {"tp": 2}, "depends on its class"),
        ("llama-3.1-8b", "transformers", {"tp": 2, "dcp": 2}, "no --dcp"),
        ("llama-3.1-8b", "transformers", {"policy": "h2o"}, "drops no tokens"),
        ("llama-3.1-8b", "transformers", {"block_tokens": 16}, "no --block-size"),
    ],
)
def test_what_transformers_lacks_is_refused(name: str, engine: str, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        size(name, 1000, engine, **words)


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(UsageError, match="cache must be one of dynamic, static, quantized"):
        get_engine("transformers:cache=paged")


def test_a_static_cache_is_ignored_by_models_with_a_cache_of_their_own() -> None:
    result = size("rwkv-4-7b", 1000, STATIC)
    assert result.allocated_bytes == size("rwkv-4-7b", 1000).allocated_bytes
    assert any("cache_implementation is ignored" in note for note in result.allocation.notes)
