"""The decode roofline: published slopes, break-evens and gains, and the laws that every estimate obeys."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kvplan.core.attention_flops import attention_flops, prompt_attention_flops
from kvplan.core.quality import SpeedRow, speed_for
from kvplan.core.roofline import (
    DENSE_LAYER_SECONDS,
    EXPERT_LAYER_SECONDS,
    CacheReading,
    DecodeStep,
    StepEstimate,
    break_even_tokens,
    computing_parameters,
    estimate_step,
    expert_bytes,
    idle_bytes,
    prefill_seconds,
    prefill_share_ratio,
    visited_experts_ratio,
    weights_read_bytes,
)
from kvplan.core.weights import get_weight_format, weights_bytes
from kvplan.specs.accelerator import load_accelerator
from kvplan.specs.advice import load_advice
from kvplan.specs.reference import resolve_model

VECTORS: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent.parent / "vectors" / "decode_slopes.yaml").read_text(encoding="utf-8")
)
GENERAL = {"bf16": 0.90, "fp8_e4m3": 0.83}


def speed(device: str, name: str, head_dim: int) -> SpeedRow:
    row = speed_for(load_advice().speed, name, "vllm", head_dim, load_accelerator(device).compute_capability)
    assert row is not None
    return row


def milliseconds(row: dict[str, Any], kv_bytes: int, batch: int = 1, extra_seconds: float = 0.0) -> float:
    """A step of a vector's model; its computing is negligible at these batches and left out."""
    layer = EXPERT_LAYER_SECONDS if row.get("num_experts") else DENSE_LAYER_SECONDS
    efficiency = GENERAL[row.get("format", "bf16")]
    step = estimate_step(
        DecodeStep(
            weights_bytes=row["weights_bytes"],
            kv_bytes=kv_bytes,
            active_parameters=0,
            attention_flops=0,
            batch=batch,
            bandwidth_bytes_per_second=load_accelerator(row["device"]).bandwidth_bytes_per_second,
            peak_flops=1e15,
            expert_bytes=row.get("expert_bytes", 0),
            num_experts=row.get("num_experts", 0),
            experts_per_token=row.get("experts_per_token", 0),
            kv_efficiency_ratio=efficiency,
            fixed_seconds=row["layers"] * layer + extra_seconds,
        )
    )
    assert step.step_seconds is not None
    return 1000 * step.step_seconds


def by_model(row: dict[str, Any]) -> str:
    return " ".join(str(row[key]) for key in ("model", "device", "format") if key in row)


@pytest.mark.parametrize("row", VECTORS["slopes"], ids=by_model)
def test_a_step_grows_with_the_context_as_published(row: dict[str, Any]) -> None:
    special = row.get("fitted", False)
    efficiency = speed(row["device"], row["format"], row["head_dim"]).efficiency_ratio if special else None
    reading = CacheReading(
        bytes_per_token=row["bytes_per_token"], efficiency_ratio=efficiency or GENERAL[row["format"]]
    )
    slope = reading.slope_seconds(load_accelerator(row["device"]).bandwidth_bytes_per_second)
    assert slope is not None
    assert 1000 * slope == pytest.approx(row["measured"], rel=row["tolerance"])


@pytest.mark.parametrize("row", VECTORS["slopes"], ids=by_model)
def test_the_speed_table_holds_the_published_slopes(row: dict[str, Any]) -> None:
    device = load_accelerator(row["device"])
    reading = CacheReading(
        bytes_per_token=row["bytes_per_token"],
        efficiency_ratio=speed(row["device"], row["format"], row["head_dim"]).efficiency_ratio,
    )
    slope = reading.slope_seconds(device.bandwidth_bytes_per_second)
    assert slope is not None
    assert 1000 * slope == pytest.approx(row["measured"], rel=0.02)


@pytest.mark.parametrize("row", VECTORS["break_evens"], ids=by_model)
def test_fp8_breaks_even_where_published(row: dict[str, Any]) -> None:
    native, fp8 = (speed(row["device"], name, row["head_dim"]) for name in ("bf16", "fp8_e4m3"))
    assert fp8.layer_overhead_seconds is not None
    tokens = break_even_tokens(
        CacheReading(bytes_per_token=row["native_bytes"], efficiency_ratio=native.efficiency_ratio),
        CacheReading(bytes_per_token=row["fp8_bytes"], efficiency_ratio=fp8.efficiency_ratio),
        load_accelerator(row["device"]).bandwidth_bytes_per_second,
        row["fp8_layers"] * fp8.layer_overhead_seconds,
    )
    assert tokens == pytest.approx(row["measured"], rel=row["tolerance"])


@pytest.mark.parametrize("row", VECTORS["intercepts"], ids=by_model)
def test_a_step_without_context_takes_as_long_as_published(row: dict[str, Any]) -> None:
    assert milliseconds(row, kv_bytes=0) == pytest.approx(row["measured"], rel=row["tolerance"])


@pytest.mark.parametrize("row", VECTORS["gains"]["rows"], ids=lambda row: str(row["context_tokens"]))
def test_one_request_decodes_as_fast_as_published_and_gains_as_much_from_fp8(row: dict[str, Any]) -> None:
    case = VECTORS["gains"]
    overhead = speed(case["device"], "fp8_e4m3", 128).layer_overhead_seconds
    assert overhead is not None
    read = row["context_tokens"] * case["bytes_per_token"]
    native = milliseconds({**case, "format": "bf16"}, read)
    fp8 = milliseconds({**case, "format": "fp8_e4m3"}, read // 2, extra_seconds=case["layers"] * overhead)
    assert 1000 / native == pytest.approx(row["bf16"], rel=case["tolerance"])
    assert 1000 / fp8 == pytest.approx(row["fp8_e4m3"], rel=case["tolerance"])
    assert 100 * (native / fp8 - 1) == pytest.approx(row["gain"], abs=case["tolerance_points"])


@pytest.mark.parametrize("row", VECTORS["load"]["rows"], ids=lambda row: row["format"])
def test_under_load_the_roofline_lies_below_the_measured_step_and_not_far(row: dict[str, Any]) -> None:
    load = VECTORS["load"]
    read = load["batch"] * load["mean_context_tokens"] * row["bytes_per_token"]
    predicted = milliseconds({**load, **row}, read, load["batch"])
    assert row["least_ratio"] * row["measured"] <= predicted <= row["measured"]


@pytest.mark.parametrize("row", VECTORS["prefill"], ids=by_model)
def test_a_prompt_takes_as_long_as_published(row: dict[str, Any]) -> None:
    peak = load_accelerator("h100-sxm").peak_flops["bf16"]
    seconds = prefill_seconds(20000, row["parameters"], row["attention_flops"], peak)
    assert seconds is not None
    assert 1000 * seconds == pytest.approx(row["measured"], rel=row["tolerance"])


STEP = DecodeStep(
    weights_bytes=16 * 10**9,
    kv_bytes=4 * 10**9,
    active_parameters=8 * 10**9,
    attention_flops=10**10,
    batch=8,
    bandwidth_bytes_per_second=3_350_000_000_000,
    peak_flops=989e12,
)
steps = st.builds(
    DecodeStep,
    weights_bytes=st.integers(10**6, 10**12),
    kv_bytes=st.integers(0, 10**12),
    active_parameters=st.integers(10**6, 10**12),
    attention_flops=st.integers(0, 10**13),
    batch=st.integers(1, 4096),
    bandwidth_bytes_per_second=st.integers(10**10, 10**13),
    peak_flops=st.floats(1e12, 1e16),
    num_experts=st.just(0) | st.integers(8, 512),
    experts_per_token=st.integers(1, 8),
    fixed_seconds=st.floats(0, 0.1),
)


def seconds(step: DecodeStep) -> float:
    result = estimate_step(step).step_seconds
    assert result is not None
    return result


@given(steps, st.floats(1, 10))
def test_more_bandwidth_or_a_higher_peak_is_never_slower(step: DecodeStep, factor: float) -> None:
    assert step.bandwidth_bytes_per_second is not None
    assert step.peak_flops is not None
    faster = replace(step, bandwidth_bytes_per_second=int(step.bandwidth_bytes_per_second * factor))
    assert seconds(faster) <= seconds(step)
    assert seconds(replace(step, peak_flops=step.peak_flops * factor)) <= seconds(step)


@given(steps)
def test_half_the_cache_is_never_slower_and_gains_no_more_than_its_share(step: DecodeStep) -> None:
    before, after = estimate_step(replace(step, kv_bytes=2 * step.kv_bytes)), estimate_step(step)
    assert before.step_seconds is not None
    assert after.step_seconds is not None
    assert before.kv_share_ratio is not None
    assert after.step_seconds <= before.step_seconds
    assert after.step_seconds >= before.step_seconds * (1 - before.kv_share_ratio / 2) * (1 - 1e-9) - 1e-12


@given(steps, st.integers(1, 4096))
def test_a_larger_batch_takes_no_less_time_a_step_and_no_more_a_token(step: DecodeStep, more: int) -> None:
    """The cache grows with the batch, so a token's share of it stays; weights are shared by more."""
    step = replace(step, expert_bytes=step.weights_bytes // 2, kv_bytes=step.batch * (step.kv_bytes // step.batch))
    batch = step.batch + more
    larger = replace(step, batch=batch, kv_bytes=step.kv_bytes // step.batch * batch)
    assert seconds(larger) >= seconds(step) * (1 - 1e-9)
    assert seconds(larger) / batch <= seconds(step) / step.batch * (1 + 1e-9)


@given(steps)
def test_bound_and_rate_follow_from_the_times(step: DecodeStep) -> None:
    estimate = estimate_step(step)
    assert estimate.memory_seconds is not None
    assert estimate.compute_seconds is not None
    assert estimate.step_seconds is not None
    assert estimate.bound == ("memory" if estimate.memory_seconds >= estimate.compute_seconds else "compute")
    least = max(estimate.memory_seconds, estimate.compute_seconds) + step.fixed_seconds
    most = estimate.memory_seconds + estimate.compute_seconds + step.fixed_seconds
    assert least * (1 - 1e-9) <= estimate.step_seconds <= most * (1 + 1e-9)
    assert estimate.tokens_per_second == pytest.approx(step.batch / estimate.step_seconds)


def test_one_request_is_bound_by_memory_and_a_thousand_short_ones_by_compute() -> None:
    assert estimate_step(replace(STEP, batch=1)).bound == "memory"
    assert estimate_step(replace(STEP, batch=1000, kv_bytes=10**9)).bound == "compute"


@pytest.mark.parametrize(
    "unknown", [{"bandwidth_bytes_per_second": None}, {"peak_flops": None}, {"kv_efficiency_ratio": None}]
)
def test_what_is_not_known_is_never_guessed(unknown: dict[str, Any]) -> None:
    estimate = estimate_step(replace(STEP, **unknown))
    assert estimate.step_seconds is None
    assert estimate.tokens_per_second is None
    assert estimate.bound is None
    assert prefill_share_ratio(1.0, 100, estimate) is None
    assert prefill_seconds(100, 10**9, 0, None) is None


def test_one_token_visits_its_own_experts_and_many_visit_nearly_all() -> None:
    assert visited_experts_ratio(32, 4, 1) == pytest.approx(4 / 32)
    assert visited_experts_ratio(32, 4, 2) == pytest.approx(1 - (28 / 32) ** 2)
    assert visited_experts_ratio(32, 4, 256) == pytest.approx(1.0)
    assert visited_experts_ratio(0, 0, 1) == 1.0
    step = replace(STEP, expert_bytes=12 * 10**9, idle_bytes=10**9, num_experts=32, experts_per_token=4, batch=1)
    assert weights_read_bytes(step) == pytest.approx(3e9 + 12e9 / 8)


def test_the_prompt_has_all_of_the_time_when_nothing_is_written() -> None:
    step = StepEstimate(
        batch=4,
        weights_seconds=0.01,
        kv_seconds=0.0,
        linear_seconds=0.0,
        attention_seconds=0.0,
        fixed_seconds=0.0,
    )
    assert prefill_share_ratio(1.0, 0, step) == 1.0
    assert prefill_share_ratio(1.0, 400, step) == pytest.approx(0.5)  # 400 steps of 10 ms serve 4 requests
    assert prefill_share_ratio(0.0, 0, step) == 0.0


def test_break_even_is_nearer_for_more_requests_and_never_for_a_slower_cache() -> None:
    native, half = CacheReading(bytes_per_token=1000), CacheReading(bytes_per_token=500)
    slow = CacheReading(bytes_per_token=500, efficiency_ratio=0.4)
    one, eight = (break_even_tokens(native, half, 10**12, 1e-4, batch) for batch in (1, 8))
    assert one is not None
    assert eight == pytest.approx(one / 8)
    assert break_even_tokens(native, slow, 10**12, 1e-4) == math.inf
    assert break_even_tokens(native, native, 10**12, 1e-4) == math.inf
    assert break_even_tokens(native, replace(half, efficiency_ratio=None), 10**12, 1e-4) is None
    assert break_even_tokens(native, half, None, 1e-4) is None


def test_attention_flops_are_four_times_heads_width_and_context() -> None:
    llama = resolve_model("llama-8b").architecture
    assert attention_flops(llama, 1000) == 32 * 4 * 32 * 128 * 1000
    assert prompt_attention_flops(llama, 1000) == 32 * 4 * 32 * 128 * (1000 * 1001 // 2)


def test_latents_are_read_for_scores_and_for_values() -> None:
    """DeepSeek-V3 absorbs the up projections: 128 heads over rows of 512 + 64 for scores and 512 for values."""
    assert attention_flops(resolve_model("deepseek-v3").architecture, 1000) == 61 * 2 * 128 * (512 + 64 + 512) * 1000


def test_windows_cap_what_a_token_attends() -> None:
    """gpt-oss-20b: 12 full layers and 12 with a window of 128."""
    model = resolve_model("gpt-oss-20b").architecture
    assert attention_flops(model, 10000) == 4 * 64 * 64 * (12 * 10000 + 12 * 128)
    windowed = 128 * 129 // 2 + (10000 - 128) * 128
    assert prompt_attention_flops(model, 10000) == 4 * 64 * 64 * 12 * (10000 * 10001 // 2 + windowed)


@pytest.mark.parametrize("name", ["gemma-4-e4b", "gpt-oss-20b", "llama-8b", "deepseek-v3", "qwen3.5-27b"])
def test_a_prompt_attends_what_its_tokens_attend(name: str) -> None:
    model = resolve_model(name).architecture
    assert prompt_attention_flops(model, 200) == sum(attention_flops(model, tokens) for tokens in range(1, 201))


def test_shared_layers_attend_their_sources_cache() -> None:
    model = resolve_model("gemma-4-e4b").architecture
    storing = replace(model, layers=tuple(layer for layer in model.layers if any(kind.parts() for kind in layer)))
    assert len(storing.layers) < len(model.layers)
    assert attention_flops(model, 5000) > attention_flops(storing, 5000)


def test_lookup_tables_are_neither_read_nor_computed_with() -> None:
    untied, tied = (resolve_model(name).architecture.parameters for name in ("llama-8b", "qwen3-4b"))
    assert untied is not None
    assert tied is not None
    bf16 = get_weight_format("bf16")
    assert idle_bytes(untied, bf16) == 2 * 128256 * 4096
    assert weights_bytes(untied, bf16) - idle_bytes(untied, bf16) == VECTORS["intercepts"][0]["weights_bytes"]
    assert idle_bytes(tied, bf16) == 0
    assert computing_parameters(untied) == untied.total - 128256 * 4096
    assert computing_parameters(tied) == tied.total


def test_experts_are_priced_in_their_own_bits() -> None:
    parameters = resolve_model("gpt-oss-20b").architecture.parameters
    assert parameters is not None
    exact = VECTORS["intercepts"][2]["expert_bytes"]  # without biases
    assert expert_bytes(parameters, get_weight_format("mxfp4_experts")) == pytest.approx(exact, rel=0.01)
