"""vLLM's rules one by one: examples worked by hand from its source, and laws that hold for every model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_questions import (
    GEMMA,
    GIB,
    GPT_OSS,
    JAMBA,
    LLAMA,
    MAMBA,
    NEMOTRON,
    QWEN_NEXT,
    R1,
    TESTS,
    V32,
    device,
    engine_of,
    model,
    plan,
    rank,
    request_of,
    settings_of,
    with_settings,
)

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineSettings
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.engines import engine_versions, get_engine
from kvplan.engines.vllm import ENGINE, VERSIONS
from kvplan.engines.vllm.backends import DENSE
from kvplan.engines.vllm.capacity import longest_fitting
from kvplan.engines.vllm.query import Blocks
from kvplan.engines.vllm.rules import V0_25, V0_32, V0_33, Rules
from kvplan.engines.vllm.run import batched_tokens, run_traits
from kvplan.engines.vllm.specs import cell_bytes
from kvplan.specs.config_json import read_config

# -- examples worked by hand ------------------------------------------------------------------------------------


def test_full_attention_rounds_up_to_blocks_of_sixteen() -> None:
    # 32 layers x 16 tokens x 8 heads x (128 + 128) x 2 bytes
    assert rank(LLAMA, 1000) == (2_097_152, 63)


def test_gpt_oss_keeps_its_windows_beside_two_batches_in_flight() -> None:
    # 12 layers a group x 16 x 8 x 128 x 2; 8192 + ceil((127 + 2 x 8192) / 16) + 1
    assert rank(GPT_OSS) == (393_216, 8192 + 1033)
    assert rank(GPT_OSS, max_num_batched_tokens=2048) == (393_216, 8192 + 265)


def test_a_short_request_takes_no_more_of_a_window_than_its_length() -> None:
    # min(127 + 16384, 100) tokens in blocks of 16, and one block more: 7 + 1
    assert rank(GPT_OSS, 100) == (393_216, 7 + 8)


def test_gemma_3_deals_52_windows_over_six_groups_of_ten() -> None:
    assert rank(GEMMA) == (10 * 131_072, 8192 + 6 * 1089)


def test_qwen3_next_aligns_a_block_of_attention_with_a_state() -> None:
    # state 3 x 8192 x 2 + 32 x 128 x 128 x 2 = 1,097,728 bytes; 2048 bytes a token: 544 = 16 x 34 tokens
    assert rank(QWEN_NEXT, 262_144) == (12 * 544 * 2048, 482 + 3 * 2)
    assert rank(QWEN_NEXT, 262_144, prefix_caching=False) == (12 * 544 * 2048, 482 + 3 * 1)


def test_qwen3_next_with_a_float32_state_takes_larger_blocks() -> None:
    assert plan(QWEN_NEXT, mamba_ssm_cache_dtype="float32").block_tokens == 1056


def test_the_text_model_of_qwen3_5_keeps_the_state_dtype_of_its_config() -> None:
    # vLLM 0.32's planner on the text_config of Qwen3.5-27B as Qwen3_5ForCausalLM, without and with its draft layer
    config = json.loads((TESTS / "assets" / "configs" / "Qwen__Qwen3.5-27B.json").read_text(encoding="utf-8"))
    values = {**config["text_config"], "architectures": ["Qwen3_5ForCausalLM"]}
    text = read_config(values, "config.json", "text")
    engine = engine_of("0.32", {})
    for options, page in (({}, 3_211_264), ({"speculative": {"num_speculative_tokens": 1}}, 3_276_800)):
        request = request_of(text, engine, options, settings_of(options, 131_072))
        allocation = engine.allocate(request)
        assert allocation.stages[0].bytes_per_block == (16 + bool(options)) * page
        assert (allocation.num_blocks, allocation.capacity_tokens) == ((771, 584_141) if options else (835, 628_994))
    other = replace(text, architecture_class="Qwen3NextForCausalLM")
    assert engine.allocate(request_of(other, engine, {}, settings_of({}, 131_072))).block_tokens == 400


def test_gemma_2_caps_its_logits_and_gemma_3_does_not() -> None:
    """``models/gemma2.py:202`` and ``gemma3.py:230``; where the class is not known, windows tell."""
    for name, named, capped in (
        ("unsloth__gemma-2-9b-it", "Gemma2ForCausalLM", True),
        ("unsloth__gemma-2-9b-it", "Gemma3ForCausalLM", False),
        ("unsloth__gemma-2-9b-it", None, True),
        ("google__gemma-3-1b-it", "Gemma3ForCausalLM", False),
        ("google__gemma-3-1b-it", None, False),
    ):
        asked = replace(model(name), architecture_class=named)
        request = request_of(asked, engine_of("0.32", {}), {}, settings_of({}, 4096))
        assert run_traits(request.stages, request.facts).softcap == capped


def test_qwen3_next_exports_checkpoints_since_0_33() -> None:
    # 64 x ceil(1,097,728 / (64 x 2048)) = 576 tokens; 2 + 1 pages of each group
    assert rank(QWEN_NEXT, version="0.33") == (12 * 576 * 2048, 228 + 3 * 3)
    assert rank(QWEN_NEXT, version="0.33", prefix_caching=False)[0] == 12 * 544 * 2048
    assert rank(QWEN_NEXT, version="0.33", compute_capability="8.0") == rank(QWEN_NEXT)


def test_hybrids_cached_no_prefixes_in_0_25() -> None:
    assert rank(QWEN_NEXT, version="0.25") == (12 * 544 * 2048, 241 + 3 * 1)


def test_mamba_layers_kept_a_state_of_every_block_in_0_25() -> None:
    """With prefix caching asked for: vLLM 0.25.1's own planner (``tests/parity/vllm_0.25_rules.md``)."""
    nano = "nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    asked = {"prefix_caching": True, "kv_memory_bytes": 40 * GIB}
    held = plan(nano, version="0.25", **asked)
    assert (held.block_tokens, held.stages[0].blocks_per_sequence) == (2176, 61 * 5)
    assert held.capacity_tokens == 1_380_338
    jamba = plan(JAMBA, version="0.25", **asked)
    assert (jamba.block_tokens, jamba.stages[0].blocks_per_sequence) == (2048, 64 * 8)
    large = plan("nvidia__Nemotron-H-56B-Base-8K", 8192, "0.25", **asked)
    assert (large.block_tokens, large.stages[0].blocks_per_sequence) == (4224, 2 * 7)


def test_an_aligned_block_had_to_fit_a_batch_in_0_25() -> None:
    assert rank(QWEN_NEXT, version="0.25", prefix_caching=True) == (12 * 544 * 2048, 241 + 3 * 2)
    with pytest.raises(UnsupportedError, match="blocks of 544 tokens, more than a batch of 512"):
        plan(QWEN_NEXT, version="0.25", prefix_caching=True, max_num_batched_tokens=512)


def test_deepseek_v4_packs_by_tuples_of_pages_in_0_25() -> None:
    flash = plan("deepseek-ai__DeepSeek-V4-Flash", version="0.25", kv_cache_dtype="fp8", kv_memory_bytes=40 * GIB)
    assert flash.stages[0].bytes_per_block == 22 * 37_440 + 21 * 8_640 + 20 * 1_728
    assert (flash.num_blocks, flash.capacity_tokens) == (41_310, 1_555_468)


def test_deepseek_v32_stores_an_index_row_beside_either_latent() -> None:
    assert rank(V32) == (61 * 64 * (1152 + 132), 2048)
    assert rank(V32, kv_cache_dtype="fp8") == (61 * 64 * (656 + 132), 2048)


def test_latent_rows_are_replicated_and_heads_are_split() -> None:
    assert rank(R1, tp=8) == rank(R1)
    assert rank(LLAMA, tp=8) == (2_097_152 // 8, 8192)
    assert rank(LLAMA, tp=16) == rank(LLAMA, tp=8)


def test_decode_context_parallelism_deals_tokens_over_ranks() -> None:
    assert rank(R1, tp=8, dcp=8) == (rank(R1)[0], 1024)


def test_a_state_without_attention_needs_one_page_whatever_the_length() -> None:
    assert rank(MAMBA, 100) == rank(MAMBA, 100_000) == (64 * 311_296, 1)


def test_mamba_2_holds_a_page_for_prefill_checkpoints() -> None:
    # 24 states in 6 groups of 4 beside 4 attention layers: 3 pages each, and the blocks of 912 tokens
    assert rank(NEMOTRON, 8192) == (4 * 3_735_552, 6 * 3 + 9)
    assert rank(NEMOTRON, 8192, prefix_caching=False) == (4 * 3_735_552, 6 * 1 + 9)


def test_speculative_tokens_widen_states_and_add_pages() -> None:
    three = plan(QWEN_NEXT, speculative={"method": "mtp", "num_speculative_tokens": 3})
    assert three.block_tokens == 560
    # 13 full layers are fewer than 1.5 x 12, so groups hold 13
    assert three.stages[0].bytes_per_block == 13 * 560 * 2048
    assert three.stages[0].blocks_per_sequence == 235 + 3 * 5


def test_draft_layers_without_a_number_draft_one_token() -> None:
    engine, deep = engine_of("0.32", {}), model(R1)
    settings = settings_of({}, 4096)
    one = request_of(deep, engine, {"speculative": {}}, settings)
    drafted = replace(one, num_draft_layers=1)
    assert any("one token is drafted" in note for note in engine.allocate(drafted).notes)


@pytest.mark.parametrize(
    ("backend", "dtype", "size"),
    [
        ("FLASH_ATTN", "auto", 512),
        ("FLASH_ATTN", "fp8", 256),
        ("TRITON_ATTN", "int8_per_token_head", 264),
        ("TRITON_ATTN", "fp8_per_token_head", 264),
        ("TRITON_ATTN", "int4_per_token_head", 136),
        ("FLASHINFER", "nvfp4", 144),
        ("TURBOQUANT", "turboquant_k8v4", 196),
        ("TURBOQUANT", "turboquant_4bit_nc", 134),
        ("TURBOQUANT", "turboquant_k3v4_nc", 118),
        ("TURBOQUANT", "turboquant_3bit_nc", 102),
    ],
)
def test_a_token_of_one_head_of_128_takes_so_many_bytes(backend: str, dtype: str, size: int) -> None:
    """Worked from ``customize_spec`` of each backend, scales included."""
    assert cell_bytes(DENSE[backend], dtype, 128, 128) == size


# -- block size and backends ------------------------------------------------------------------------------------


def test_the_backend_decides_the_block_size_of_latent_attention() -> None:
    assert plan(R1).block_tokens == 16  # FLASH_ATTN_MLA
    assert plan(R1, kv_cache_dtype="fp8").block_tokens == 64  # FLASHMLA
    assert plan(R1, compute_capability="10.0").block_tokens == 128  # CUTLASS_MLA
    assert plan(R1, compute_capability="10.0", flashinfer=True).block_tokens == 32  # FLASHINFER_MLA
    assert plan(R1, block_size=32, kv_cache_dtype="fp8").block_tokens == 32  # TRITON_MLA takes it


def test_a_named_backend_is_used() -> None:
    assert with_settings(R1, attention_backend="flashmla").block_tokens == 64
    with pytest.raises(UsageError, match="no attention backend"):
        with_settings(R1, attention_backend="FLASH_ATTN")
    with pytest.raises(UnsupportedError, match=r"compute capability 9\.0"):
        with_settings(R1, attention_backend="CUTLASS_MLA")


def test_a_block_size_that_is_too_small_for_a_state_is_raised_and_said() -> None:
    allocation = with_settings(JAMBA, block_tokens=32)
    assert allocation.block_tokens == 96
    assert any("raises --block-size 32 to 96" in note for note in allocation.notes)


def test_block_sizes_are_multiples_of_sixteen() -> None:
    with pytest.raises(UsageError, match="multiple of 16"):
        with_settings(LLAMA, block_tokens=24)


@given(st.lists(st.sampled_from([16, 32, 64, 128]), max_size=4, unique=True), st.integers(1, 1000))
def test_the_largest_kernel_block_fits_unless_none_does(exact: list[int], tokens: int) -> None:
    blocks = Blocks(exact=tuple(exact), multiple=16)
    chosen = blocks.largest_within(tokens)
    assert chosen % 16 == 0
    assert chosen <= tokens or chosen == blocks.smallest


# -- batches, devices, releases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accelerator", "rules", "tokens"),
    [
        (None, V0_32, 8192),
        (device("h100-sxm", 79), V0_32, 8192),
        (device("a100-80gb-sxm", 79, (8, 0)), V0_32, 2048),
        (device("l40s", 44, (8, 9)), V0_32, 2048),
        (device("b200", 178, (10, 0)), V0_32, 16384),
        (device("b200", 178, (10, 0)), V0_25, 8192),
        (device("gb10", 119, (12, 1)), V0_32, 8192),
        (device("gb10", 119, (12, 1)), V0_33, 2048),
    ],
)
def test_serve_batches_by_the_memory_of_the_device(accelerator: Accelerator | None, rules: Rules, tokens: int) -> None:
    """``engine/arg_utils.py`` ``get_batch_defaults`` of each release."""
    assert batched_tokens(EngineSettings(accelerator=accelerator), 131072, rules) == tokens


def test_a_batch_is_never_more_than_all_requests_hold() -> None:
    assert batched_tokens(EngineSettings(max_num_seqs=4), 100, V0_32) == 400


def test_releases_are_named_and_the_newest_is_the_default() -> None:
    assert engine_versions("vllm") == tuple(VERSIONS) == ("0.25", "0.32", "0.33")
    assert get_engine("vllm") == ENGINE == VERSIONS["0.33"]
    assert get_engine("vllm@0.25.1").version == "0.25.1"
    assert get_engine("vllm@0.32:flashinfer=false") == replace(VERSIONS["0.32"], flashinfer=False)


def test_one_batch_was_in_flight_in_0_25_however_many_stages() -> None:
    assert rank(GPT_OSS, version="0.25") == (393_216, 8192 + 521)
    assert rank(GPT_OSS, version="0.25", pp=2)[1] == 8192 + 521
    assert rank(GPT_OSS, pp=2)[1] == 8192 + 1545  # three batches of 8192


def test_two_lines_were_logged_in_0_25() -> None:
    lines = (plan(LLAMA, version="0.25").log_line or "").split("\n")
    assert [line.split(":")[0] for line in lines] == [
        "GPU KV cache size",
        "Maximum concurrency for 131,072 tokens per request",
    ]


def test_0_33_answers_as_0_32_but_for_qwens_delta_net() -> None:
    for name in (LLAMA, GPT_OSS, GEMMA, V32, R1, MAMBA, JAMBA):
        assert rank(name, 2048, "0.33") == rank(name, 2048)


# -- memory -----------------------------------------------------------------------------------------------------


def test_memory_that_is_exactly_enough_lacks_the_null_block() -> None:
    exact = 8192 * 2_097_152
    with pytest.raises(DoesNotFitError, match="estimated maximum model length is 131056"):
        plan(LLAMA, kv_memory_bytes=exact)
    assert plan(LLAMA, kv_memory_bytes=exact + 2_097_152).num_blocks == 8193
    assert plan(LLAMA, version="0.25", kv_memory_bytes=exact).num_blocks == 8192


def test_no_memory_at_all_is_said_so() -> None:
    with pytest.raises(DoesNotFitError, match="No available memory"):
        plan(LLAMA, kv_memory_bytes=1000)


@given(st.integers(1, 2000), st.integers(0, 3000))
def test_the_estimated_length_is_the_longest_that_fits(longest: int, limit: int) -> None:
    assert longest_fitting(longest, lambda tokens: tokens <= limit) == min(longest, limit)


@given(st.integers(1, 64), st.integers(1, 200_000))
def test_a_rank_holds_all_requests_and_one_null_block(sequences: int, tokens: int) -> None:
    engine = engine_of("0.32", {})
    settings = replace(settings_of({}, tokens), kv_memory_bytes=None)
    tokens = min(tokens, 131072)
    request = request_of(model(GPT_OSS), engine, {}, replace(settings, max_model_len=tokens))
    (only,) = engine.allocate(replace(request, sequences=sequences)).stages
    assert only.bytes_per_block is not None
    assert only.blocks_per_sequence is not None
    assert only.sequence_bytes == only.blocks_per_sequence * only.bytes_per_block
    assert only.allocated_bytes == sequences * only.sequence_bytes + only.bytes_per_block
    assert sum(group.count * group.allocated_bytes for group in only.groups) == sequences * only.sequence_bytes


@pytest.mark.parametrize("name", [LLAMA, GPT_OSS, GEMMA, QWEN_NEXT, V32])
def test_longer_requests_never_take_fewer_blocks(name: str) -> None:
    blocks = [rank(name, tokens)[1] for tokens in (1, 15, 16, 17, 500, 4096, 20_000, 131_072)]
    assert blocks == sorted(blocks, key=lambda count: count or 0)


def test_stages_share_the_blocks_and_split_the_bytes() -> None:
    whole, halves = plan(LLAMA), plan(LLAMA, pp=2)
    assert [stage.bytes_per_block for stage in halves.stages] == [1_048_576, 1_048_576]
    assert {stage.blocks_per_sequence for stage in halves.stages} == {whole.stages[0].blocks_per_sequence}
