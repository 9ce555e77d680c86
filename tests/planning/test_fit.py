"""``fit_model`` against real start-ups, and the laws that hold on any hardware."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from kvplan.core.fit import FitResult
from kvplan.engines import get_engine
from kvplan.planning.fit import fit_model
from kvplan.planning.fit_request import FitWords, build_fit_request
from kvplan.specs.catalogue import load_packaged

GIB = 1 << 30
PACKAGED = {
    "llama8b": "llama-3.1-8b",
    "llama8b-alt": "llama-3.1-8b",
    "qwen3-8b": "qwen3-8b",
    "gptoss20b": "gpt-oss-20b",
    "qwen35-27b": "qwen3.5-27b",
    "dsv2lite": "deepseek-v2-lite",
}
MEASURED = {
    # run: weights, peak activation, available for the cache, in GiB (the engine's own log, rounded to 0.01), tokens
    "llama8b": (15.0, 1.78, 111.61, 914304),
    "llama8b-alt": (15.04, 0.79, 53.85, 882256),
    "qwen3-8b": (15.27, 1.59, 111.53, 812160),
    "gptoss20b": (13.02, 2.92, 111.88, 4340564),
    "qwen35-27b": (50.22, 3.64, 73.44, 1175815),
    "dsv2lite": (29.34, 1.74, 97.31, 3359312),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "llama8b": {"max_model_len": "131072"},
    "llama8b-alt": {
        "max_model_len": "16384",
        "enforce_eager": True,
        "gpu_memory_utilization": "0.5",
        "max_num_batched_tokens": "2048",
        "kv_dtype": "fp8",
    },
    "qwen3-8b": {"max_model_len": "32768"},
    "gptoss20b": {"max_model_len": "131072"},
    "qwen35-27b": {"max_model_len": "131072"},
    "dsv2lite": {"max_model_len": "32768", "enforce_eager": True},
}
"""vLLM 0.25.1 on an H200, tp 1, offline LLM class, image inputs disabled."""


def fitted(name: str, **words: Any) -> FitResult:
    model = load_packaged(name)
    stated = FitWords(model=name, **{"gpu": "h200", **words})
    engine = get_engine(stated.engine)
    return fit_model(model, build_fit_request(model, stated, engine), engine)


@pytest.mark.parametrize("run", MEASURED)
def test_a_real_start_up_is_predicted(run: str) -> None:
    weights, activation, available, tokens = MEASURED[run]
    result = fitted(PACKAGED[run], engine="vllm@0.25", usage="llm", **ARGUMENTS[run])
    budget = result.budgets[0]
    assert abs(budget.weights.size_bytes / (weights * GIB) - 1) < 0.005
    assert abs(budget.activation.size_bytes / GIB - activation) < 0.02
    assert abs(budget.kv_cache.size_bytes / GIB - available) < 0.1
    assert result.capacity is not None
    assert abs((result.capacity.capacity_tokens or 0) / tokens - 1) < 0.002


MODELS = ("llama-3.1-8b", "gpt-oss-20b", "gemma-3-27b", "deepseek-v2-lite", "qwen3-next-80b-a3b")


@pytest.mark.parametrize("name", MODELS)
def test_lines_add_up_to_what_the_engine_takes(name: str) -> None:
    for budget in fitted(name, ctx="8k", gpu="4xh200").budgets:
        lines = (budget.weights, budget.activation, budget.cuda_graph, budget.non_torch, budget.kv_cache)
        assert sum(line.size_bytes for line in lines) == budget.requested_bytes + budget.missing_bytes
        assert budget.requested_bytes + budget.unused_bytes == budget.memory_bytes


@pytest.mark.parametrize("name", MODELS)
def test_more_memory_never_holds_less(name: str) -> None:
    held = [fitted(name, ctx="8k", gpu_memory=f"{size}GiB").max_concurrency for size in (16, 24, 48, 80, 96, 141)]
    assert held == sorted(held)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_said_to_be_held_fits_and_one_more_does_not(name: str) -> None:
    result = fitted(name, ctx="16k", gpu="4xh200")
    most = result.max_concurrency
    assert most > 0
    assert fitted(name, ctx="16k", gpu="4xh200", concurrency=most).fits
    assert not fitted(name, ctx="16k", gpu="4xh200", concurrency=most + 1).fits


def test_the_longest_request_starts_and_a_longer_one_is_refused() -> None:
    result = fitted("llama-3.1-8b", gpu_memory="24GiB", ctx="8k")
    longest = result.max_context_tokens
    assert 8192 < longest < 131072
    assert fitted("llama-3.1-8b", gpu_memory="24GiB", ctx=str(longest)).starts
    assert not fitted("llama-3.1-8b", gpu_memory="24GiB", ctx=str(longest + 16)).starts


def test_tensor_parallelism_shrinks_weights_and_replicates_a_latent_cache() -> None:
    one, eight = (fitted("deepseek-v2-lite", ctx="8k", gpu=f"{count}xh200") for count in (1, 8))
    assert eight.budgets[0].weights.size_bytes < one.budgets[0].weights.size_bytes / 4
    assert eight.kv_bytes_needed == one.kv_bytes_needed


def test_a_smaller_share_of_the_memory_leaves_less_for_the_cache() -> None:
    model, engine = load_packaged("llama-3.1-8b"), get_engine("vllm")
    request = build_fit_request(model, FitWords(model="llama-3.1-8b", gpu="h100", ctx="8k"), engine)
    half = fit_model(model, replace(request, memory_utilization=Fraction(1, 2)), engine)
    assert half.available_bytes < fit_model(model, request, engine).available_bytes
    assert half.budgets[0].requested_bytes == -(-half.budgets[0].memory_bytes // 2)
