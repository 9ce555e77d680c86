"""LMDeploy's rules against its own plans: ``tests/vectors/lmdeploy_0.18.json``, of ``lmdeploy_plans.py``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.accelerator import Accelerator
from kvplan.core.attention import SlidingWindow
from kvplan.core.engine import EngineRequest, EngineSettings, ModelFacts
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.geometry import CacheChoice, place_layers
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.request import SizeResult
from kvplan.engines import get_engine
from kvplan.formats import parse_kv_format
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model
from kvplan.policies.none import POLICY
from kvplan.specs.catalogue import load_packaged
from kvplan.specs.reference import read_file

TESTS = Path(__file__).parent.parent
VECTORS = json.loads((TESTS / "vectors" / "lmdeploy_0.18.json").read_text(encoding="utf-8"))
PLANS: list[dict[str, Any]] = [row for row in VECTORS["plans"] if "bytes_per_block" in row]
UNEVEN: list[dict[str, Any]] = [row for row in VECTORS["plans"] if row.get("error", "").startswith("AssertionError")]
MISREAD = {"mistral-community__pixtral-12b": "configurations/llava_hf.py takes hidden / heads for its head_dim"}
NOT_SIZED = {"deepseek-ai__DeepSeek-V4-Flash", "deepseek-ai__DeepSeek-V4-Pro"}
LATENTS_16_BIT = {  # the plan takes any policy; its kernels do not: backends/cuda/attention/mla.py, engine/executor
    "deepseek-ai__DeepSeek-V2-Lite",
    "deepseek-ai__DeepSeek-V3",
    "deepseek-ai__DeepSeek-V3.2",
    "moonshotai__Kimi-K2-Instruct",
    "moonshotai__Kimi-K2.5",
    "zai-org__GLM-5.1",
    "zai-org__GLM-5.2",
}
SIZED = [
    row
    for row in PLANS
    if row["config"] not in MISREAD | dict.fromkeys(NOT_SIZED)
    and (row["config"] not in LATENTS_16_BIT or row["policy"] == "none")
]


@cache
def load(name: str) -> Model:
    return read_file(TESTS / "assets" / "configs" / f"{name}.json")


def sized(model: Model, context: int, **words: Any) -> SizeResult:
    engine = get_engine(words.pop("engine", "lmdeploy"))
    return size_model(model, build_request(model, context, RequestWords(**words), engine), engine)


def row_id(row: dict[str, Any]) -> str:
    return f"{row['config']}-tp{row['tp']}-{row['policy']}"


@pytest.mark.parametrize("row", SIZED, ids=row_id)
def test_blocks_and_slots_have_the_bytes_that_lmdeploy_plans(row: dict[str, Any]) -> None:
    model = load(row["config"])
    result = sized(model, 1000, kv_dtype=row["policy"], parallel=Parallel(tp=row["tp"]), concurrency=2)
    rank = result.allocation.stages[0]
    assert (rank.bytes_per_block, result.allocation.block_tokens) == (row["bytes_per_block"], row["block_tokens"])
    blocks = 2 * 16 + 1
    assert rank.allocated_bytes == blocks * row["bytes_per_block"] + (128 + 2) * row["slot_bytes"]


@pytest.mark.parametrize("row", [row for row in SIZED if row["window"] > 0 and row["tp"] == 1], ids=row_id)
def test_blocks_behind_the_window_that_lmdeploy_reads_are_dropped(row: dict[str, Any]) -> None:
    window = row["window"]
    long = sized(load(row["config"]), window + 100_000).allocation.stages[0].blocks_per_sequence
    assert long is not None
    assert long < (window + 100_000) // 64


@pytest.mark.parametrize("row", VECTORS["windows"], ids=lambda row: f"{row['window']}-{row['prompt']}")
def test_a_window_holds_the_blocks_that_its_block_manager_gave(row: dict[str, int]) -> None:
    kv_format = parse_kv_format("bf16", "bf16")
    layer = (SlidingWindow(num_kv_heads=8, head_dim=128, window=row["window"]),)
    request = EngineRequest(
        stages=(tuple(place_layers([layer], kv_format)),),
        facts=ModelFacts(family="mistral", dtype="bf16", num_heads=32, hidden_size=4096),
        choice=CacheChoice(kv_format=kv_format, policy=POLICY),
        context_tokens=row["prompt"],
        settings=EngineSettings(max_num_batched_tokens=row["chunk"]),
    )
    held = get_engine("lmdeploy").allocate(request).stages[0].blocks_per_sequence
    whole = -(-row["prompt"] // 64)  # the vector counts the block of the first token made, too
    assert held == (row["blocks"] if row["prompt"] > row["window"] else whole)


@pytest.mark.parametrize("row", UNEVEN, ids=row_id)
def test_heads_that_lmdeploy_cannot_split_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises((UnsupportedError, UsageError)):
        sized(load(row["config"]), 1000, parallel=Parallel(tp=row["tp"]))


def test_the_vectors_cover_policies_states_and_windows() -> None:
    assert {row["policy"] for row in SIZED} == {"none", "int8", "int4", "fp8", "turbo_quant"}
    assert any(row["slot_bytes"] for row in SIZED)
    assert any(row["window"] > 0 for row in SIZED)
    assert len(SIZED) > 250
    assert UNEVEN


def test_a_packed_latent_row_has_656_bytes() -> None:
    row = next(row for row in PLANS if row["config"] == "deepseek-ai__DeepSeek-V3.2" and row["policy"] == "fp8")
    assert row["bytes_per_block"] == 61 * 64 * (656 + 132)
    rank = sized(load(row["config"]), 1000, kv_dtype="fp8").allocation.stages[0]
    assert rank.bytes_per_block == row["bytes_per_block"]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("auto", "bf16"),
        ("none", "bf16"),
        ("0", "bf16"),
        ("8", "int8_per_token_head"),
        ("4", "int4_per_token_head"),
        ("16", "fp8_e4m3"),
        ("17", "fp8_e5m2"),
        ("42", "turbo_quant"),
    ],
)
def test_quant_policies_go_by_number_or_name(word: str, name: str) -> None:
    assert sized(load_packaged("llama-3.1-8b"), 64, kv_dtype=word).request.choice.kv_format.name == name


@pytest.mark.parametrize(
    ("model", "word"),
    [("llama-3.1-8b", "q8_0"), ("deepseek-v3", "fp8"), ("deepseek-v3", "int8"), ("deepseek-v3.2", "int4")],
)
def test_cache_dtypes_that_it_does_not_have_are_refused(model: str, word: str) -> None:
    with pytest.raises(UnsupportedError):
        sized(load_packaged(model), 1000, kv_dtype=word)


@pytest.mark.parametrize("name", ["gemma-4-31b", "jamba-v0.1", "nemotron-h-56b", "deepseek-v4-flash"])
def test_layers_that_differ_or_have_no_rule_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedError):
        sized(load_packaged(name), 1000)


def test_wide_latents_have_blocks_of_32_without_flashmla() -> None:
    """``_adjust_block_size``: ``k_head_dim >= 512`` and FlashMLA from SM 9.0 on (``configurations/utils.py``)."""
    a100 = Accelerator(name="A100 SXM 80GB", vendor="NVIDIA", memory_bytes=80 * 1024**3, compute_capability=(8, 0))
    model = load_packaged("deepseek-v3")
    assert sized(model, 1000, settings=EngineSettings(accelerator=a100)).allocation.block_tokens == 32
    assert sized(model, 1000).allocation.block_tokens == 64
    with pytest.raises(UsageError, match="64"):
        sized(model, 1000, settings=EngineSettings(block_tokens=128))


@pytest.mark.parametrize("block", [8, 48])
def test_blocks_are_powers_of_two_from_16(block: int) -> None:
    with pytest.raises(UsageError, match="powers of two"):
        sized(load_packaged("llama-3.1-8b"), 1000, settings=EngineSettings(block_tokens=block))


def test_states_have_a_slot_for_the_devices_largest_batch() -> None:
    h200 = Accelerator(name="H200 SXM", vendor="NVIDIA", memory_bytes=141 * 1024**3, compute_capability=(9, 0))
    model = load_packaged("qwen3-next-80b-a3b")
    block = 12 * 64 * 2 * 2 * 256 * 2
    slot = 36 * (8192 * 4 * 2 + 32 * 128 * 128 * 2)
    for settings, batches in ((None, 128), (h200, 1024)):
        result = sized(model, 64, settings=EngineSettings(accelerator=settings))
        assert result.allocated_bytes == 2 * block + (batches + 2) * slot
    with pytest.raises(UsageError, match="batches"):
        sized(model, 64, concurrency=5, settings=EngineSettings(max_num_seqs=4))


def test_a_memory_keeps_one_block_in_reserve_and_one_behind_a_session() -> None:
    """``num_reserved_gpu_blocks=1`` and ``_get_max_session_len``: 10 blocks of 64 serve sessions of 512."""
    block = 32 * 64 * 4096
    memory = EngineSettings(kv_memory_bytes=10 * block + block - 1)
    model = load_packaged("llama-3.1-8b")
    held = sized(model, 512, settings=memory).allocation
    assert (held.num_blocks, held.capacity_tokens, held.max_concurrency) == (10, 576, 9 / 8)
    assert held.log_line == "num_gpu_blocks=10"
    with pytest.raises(DoesNotFitError):
        sized(model, 513, settings=memory)


@pytest.mark.parametrize("parallel", [Parallel(pp=2), Parallel(dp=2)])
def test_parallel_sizes_that_it_does_not_have_are_refused(parallel: Parallel) -> None:
    with pytest.raises(UnsupportedError):
        sized(load_packaged("llama-3.1-8b"), 1000, parallel=parallel)


def test_turbomind_is_said_not_to_be_read() -> None:
    assert any("TurboMind" in note for note in sized(load_packaged("llama-3.1-8b"), 1000).allocation.notes)
