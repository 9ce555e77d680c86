"""TensorRT-LLM's published rules and the capacity that real engines logged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineSettings
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.parallel import Parallel
from kvplan.core.request import SizeResult
from kvplan.engines import get_engine
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model
from kvplan.specs.catalogue import load_packaged

GIB = 1024**3


def sized(name: str, context: int, engine: str = "trtllm", **words: Any) -> SizeResult:
    chosen, model = get_engine(engine), load_packaged(name)
    return size_model(model, build_request(model, context, RequestWords(**words), chosen), chosen)


@pytest.mark.parametrize(
    ("model", "dtype", "block", "tokens", "logged"),
    [
        # start-up lines "[MemUsageChange] Allocated X GiB for max tokens in paged KV cache (N)." in public repositories
        ("llama-3.1-8b", "bf16", 64, 220_480, "26.91"),
        ("llama-3.1-8b", "fp8", 32, 263_008, "16.05"),
        ("qwen2.5-0.5b", "bf16", 64, 190_656, "2.18"),
        ("qwen2.5-1.5b", "bf16", 64, 273_792, "7.31"),
    ],
)
def test_the_capacity_of_a_memory_is_what_engines_logged(
    model: str, dtype: str, block: int, tokens: int, logged: str
) -> None:
    per_token = (
        sized(model, block, kv_dtype=dtype, settings=EngineSettings(block_tokens=block)).allocated_bytes // block
    )
    settings = EngineSettings(block_tokens=block, kv_memory_bytes=per_token * tokens + per_token)
    held = sized(model, 2048, kv_dtype=dtype, settings=settings).allocation
    assert held.capacity_tokens == tokens
    assert held.log_line == f"[MemUsageChange] Allocated {logged} GiB for max tokens in paged KV cache ({tokens})."


def test_nvfp4_has_an_e4m3_scale_for_16_elements() -> None:
    """``calculate_scaling_factor_size_bytes``: n / 2 + n / 16 bytes."""
    assert sized("llama-3.1-8b", 32, kv_dtype="nvfp4").allocated_bytes == 32 * 32 * 2 * 8 * 128 * 9 // 16


def test_ranks_hold_at_least_one_head_and_latents_are_on_all() -> None:
    """``(num_kv_heads + tp_size - 1) // tp_size``; ``CacheTypeCpp.SELFKONLY`` with one head."""
    assert sized("qwen2.5-0.5b", 32, parallel=Parallel(tp=2)).allocated_bytes_per_rank[0] == 32 * 24 * 2 * 64 * 2
    assert sized("deepseek-v3", 32, parallel=Parallel(tp=8)).allocated_bytes_per_rank == (32 * 61 * 1152,) * 8


def test_attention_data_parallelism_splits_requests_instead_of_heads() -> None:
    split = sized("deepseek-v3", 32, "trtllm:enable_attention_dp=true", parallel=Parallel(tp=8), concurrency=16)
    assert split.allocated_bytes_per_rank == (2 * 32 * 61 * 1152,) * 8
    llama = sized("llama-3.1-8b", 32, "trtllm:enable_attention_dp=true", parallel=Parallel(tp=8), concurrency=3)
    assert llama.allocated_bytes_per_rank == (32 * 131072,) * 8


def test_index_keys_take_132_bytes_whatever_the_cache() -> None:
    """``DSACacheManager``: index_head_dim + index_head_dim // 128 * 4, not scaled by the cache's dtype."""
    for dtype, latent in (("auto", 1152), ("fp8", 576)):
        assert sized("deepseek-v3.2", 32, kv_dtype=dtype).allocated_bytes == 32 * 61 * (latent + 132)


def test_windows_keep_every_token_unless_they_are_listed() -> None:
    """``max_attention_window`` is None by default: every layer has ``max_seq_len``."""
    assert sized("gemma-3-27b", 32768).allocated_bytes == 32768 * 62 * 2 * 16 * 128 * 2
    listed = sized("gemma-3-27b", 32768, "trtllm:max_attention_window=model")
    full, window = 1024 * 32 * 10 * 8192, (32 + 1) * 32 * 52 * 8192
    assert listed.allocated_bytes == 2 * max(full, window)
    assert any("equal share" in reason for reason in listed.allocation.reasons)


def test_each_window_has_an_equal_share_of_a_memory() -> None:
    """``calculate_max_num_blocks_for_vswa``: shares of 1 / windows, ``int(share / bytes_per_token // block)``."""
    memory = 8 * GIB
    settings = EngineSettings(kv_memory_bytes=memory)
    held = sized("gemma-3-27b", 32768, "trtllm:max_attention_window=model", settings=settings).allocation
    full, window = memory // 2 // (32 * 10 * 8192), memory // 2 // (32 * 52 * 8192)
    assert held.num_blocks == full
    assert held.max_concurrency == min(full / 1024, window / 33)
    assert held.log_line is None


def test_drafted_tokens_take_room() -> None:
    assert sized("llama-3.1-8b", 32).blocks_per_sequence == 1
    assert sized("llama-3.1-8b", 32, settings=EngineSettings(num_speculative_tokens=3)).blocks_per_sequence == 2


def test_a_checkpoint_of_modelopt_decides_what_auto_is() -> None:
    model, engine = load_packaged("llama-3.1-8b"), get_engine("trtllm")
    for method, name in (("modelopt", "fp8_e4m3"), ("compressed-tensors", "bf16")):
        quantized = replace(model, kv_scheme="fp8_e4m3", kv_scheme_method=method)
        assert build_request(quantized, 32, RequestWords(), engine).choice.kv_format.name == name


def test_flashmla_on_hopper_makes_blocks_of_64() -> None:
    hopper = Accelerator(name="H200", vendor="NVIDIA", memory_bytes=141 * GIB, compute_capability=(9, 0))
    assert sized("deepseek-v3", 32, settings=EngineSettings(accelerator=hopper)).allocation.block_tokens == 64
    assert sized("llama-3.1-8b", 32, settings=EngineSettings(accelerator=hopper)).allocation.block_tokens == 32


@pytest.mark.parametrize(("word", "capability"), [("fp8", (8, 0)), ("nvfp4", (9, 0))])
def test_dtypes_that_a_device_does_not_have_are_refused(word: str, capability: tuple[int, int]) -> None:
    device = Accelerator(name="old", vendor="NVIDIA", memory_bytes=GIB, compute_capability=capability)
    with pytest.raises(UnsupportedError, match="newer"):
        sized("llama-3.1-8b", 32, kv_dtype=word, settings=EngineSettings(accelerator=device))


@pytest.mark.parametrize("text", ["int8", "fp8_e5m2", "q8_0", "mxfp8"])
def test_words_that_it_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedError, match="no cache dtype"):
        sized("llama-3.1-8b", 32, kv_dtype=text)


@pytest.mark.parametrize("block", [1, 48])
def test_blocks_are_powers_of_two(block: int) -> None:
    with pytest.raises(UsageError, match="powers of two"):
        sized("llama-3.1-8b", 32, settings=EngineSettings(block_tokens=block))


@pytest.mark.parametrize("name", ["deepseek-v4-flash", "jamba-v0.1", "mimo-v2-flash", "whisper-large-v3"])
def test_layers_without_a_rule_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedError):
        sized(name, 32)


def test_a_memory_without_one_request_is_refused() -> None:
    with pytest.raises(DoesNotFitError):
        sized("llama-3.1-8b", 8192, settings=EngineSettings(kv_memory_bytes=GIB - 1))


def test_it_says_that_it_is_an_estimate() -> None:
    result = sized("llama-3.1-8b", 32)
    assert result.certainty == "estimate"
    assert any("estimate" in note for note in result.allocation.notes)
