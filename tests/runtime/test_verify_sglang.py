"""``kvplan verify --against sglang``: what a real SGLang answered is played again, and what it is started with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from engine_stand_in import Answers, answers_of, asked_of, failed, played, stand_in, with_layers, with_settings

import kvplan
from kvplan.core.attention import FullAttention
from kvplan.core.request import SizeResult
from kvplan.runtime.verify.against import sglang
from kvplan.runtime.verify.engines import verify_engine

GPU = {
    "kind": "cuda",
    "name": "H100",
    "vendor": "nvidia",
    "memory_bytes": 80 << 30,
    "free_bytes": 79 << 30,
    "compute_capability": [9, 0],
}


def sglang_arguments(folder: Path, result: SizeResult, device: dict[str, Any]) -> dict[str, Any]:
    """What SGLang is started with; how large its pools are does not matter."""
    body = {"version": "0.5.23", "device": device, "started": True, "pools": {"rows": 1, "states": 0}}
    log = ["max_total_num_tokens=4096, chunked_prefill_size=4096, "]
    verify_engine(result, "sglang", stand_in(folder, [{"body": body, "log": log}] * 2))
    return asked_of(folder)["arguments"]  # type: ignore[no-any-return]


def test_options_of_sglang_reach_sglang(tmp_path: Path) -> None:
    words = "sglang:swa_full_tokens_ratio=0.5,disable_hybrid_swa_memory=true"
    result = with_settings("llama-3.1-8b", words, block_tokens=16, max_model_len=8192)
    arguments = sglang_arguments(tmp_path, result, GPU)
    expected = {"swa_full_tokens_ratio": 0.5, "disable_hybrid_swa_memory": True, "page_size": 16}
    assert {name: arguments.get(name) for name in expected} == expected
    assert arguments["context_length"] == 8192
    assert "device" not in arguments


def test_sglang_runs_on_the_cpu_where_torch_sees_no_gpu(tmp_path: Path) -> None:
    (check,) = played(tmp_path, "sglang", "llama-3.1-8b").checks
    assert asked_of(tmp_path)["arguments"]["device"] == "cpu"
    # 4096 tokens and a page of one more: rows of 32 layers x 8 heads x 128 wide x keys and values x 2 bytes
    assert check.measured_bytes == 4097 * 32 * 8 * 128 * 2 * 2
    assert check.allowed_bytes == 0


def test_one_row_too_many_in_sglangs_tensors_fails(tmp_path: Path) -> None:
    answers = answers_of("sglang", "llama-3.1-8b")
    answers[1]["body"]["pools"]["rows"] += 32 * 8 * 128 * 2 * 2
    found = verify_engine(kvplan.size("llama-3.1-8b", "4k"), "sglang", stand_in(tmp_path, answers))
    assert failed(found.checks) == ["pools of all layers"]


def test_a_missed_window_fails_in_sglangs_pools(tmp_path: Path) -> None:
    result = kvplan.size("gpt-oss-20b", "4k")
    layers = result.model.architecture.layers
    (full,) = next(layer for layer in layers if isinstance(layer[0], FullAttention))
    wrong = with_layers(result, tuple((full,) for _ in layers))
    assert failed(played(tmp_path, "sglang", "gpt-oss-20b", wrong).checks) == ["pools of all layers"]


def test_sglang_is_asked_for_a_full_pool_that_its_windowed_one_starts_with(tmp_path: Path) -> None:
    # 4/5 of the full pool must be more than a window (127, without the current token) and a page: 100 are too few
    arguments = sglang_arguments(tmp_path, kvplan.size("gpt-oss-20b", 100), {"kind": "cpu"})
    assert arguments["max_total_tokens"] == 162  # 129.6


def test_sglangs_state_slots_are_those_of_the_requests(tmp_path: Path) -> None:
    result = kvplan.size("qwen3-next-80b-a3b", "4k", concurrency=2)
    on_gpu = sglang_arguments(tmp_path, result, GPU)
    assert (on_gpu["max_mamba_cache_size"], on_gpu["max_running_requests"]) == (2 * 5, 2)  # 3 and two buffers each
    assert "mamba_radix_cache_strategy" not in on_gpu
    on_cpu = sglang_arguments(tmp_path, result, {"kind": "cpu"})
    expected = {
        "max_mamba_cache_size": 2 * 3,
        "mamba_radix_cache_strategy": "no_buffer",
        "disable_overlap_schedule": True,
    }
    assert {name: on_cpu.get(name) for name in expected} == expected


def test_rows_packed_for_sparse_attention_are_sglangs_fp8(tmp_path: Path) -> None:
    result = kvplan.size("deepseek-v3.2", "4k", kv_dtype="fp8_e4m3", engine="sglang", gpu="h100")
    assert result.request.choice.kv_format.key.name == "fp8_ds_mla"
    arguments = sglang_arguments(tmp_path, result, GPU)
    assert (arguments["kv_cache_dtype"], arguments["page_size"]) == ("fp8_e4m3", 64)


def test_sglangs_pools_are_read_from_its_log_where_it_does_not_tell(tmp_path: Path) -> None:
    probe = {"version": "0.5.23", "device": GPU}
    # 4096 tokens and a page of one: 4097 rows of 32 layers x 8 heads x 128 x 2 B = 0.25 GiB, keys and values each
    log = ["KV Cache is allocated. dtype: torch.bfloat16, #tokens: 4096, K size: 0.25 GB, V size: 0.25 GB"]
    answers: Answers = [{"body": probe, "log": []}, {"body": {**probe, "started": True, "pools": None}, "log": log}]
    (check,) = verify_engine(kvplan.size("llama-3.1-8b", "4k"), "sglang", stand_in(tmp_path, answers)).checks
    assert (check.measured_bytes, check.passed) == (1 << 29, True)
    assert asked_of(tmp_path)["arguments"]["max_total_tokens"] == 4096
    answers[1]["log"] = [log[0].replace("V size: 0.25", "V size: 0.22")]
    (check,) = verify_engine(kvplan.size("llama-3.1-8b", "4k"), "sglang", stand_in(tmp_path, answers)).checks
    assert not check.passed


def test_sglangs_own_options_have_the_names_of_its_fields() -> None:
    spoken = sglang._engine_arguments(replace(sglang.SGLANG, dsa_backend="trtllm", mamba_ssm_dtype="bfloat16"))
    both = {"dsa_prefill_backend": "trtllm", "dsa_decode_backend": "trtllm"}
    assert spoken == {"mamba_ssm_dtype": "bfloat16", **both}
