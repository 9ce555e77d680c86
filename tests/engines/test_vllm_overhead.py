"""What vLLM reserves besides weights and cache, against start-ups of vLLM 0.25.1 on an H200.

``tests/vectors/vllm_0.25_startups.json`` says how each was run. GiB figures are the log's, rounded to 0.01.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from vllm_questions import GPT_OSS, LLAMA, engine_of, model, models_of, request_of, settings_of, vectors

from kvplan.core.engine import EngineSettings
from kvplan.core.errors import UsageError
from kvplan.core.model import Model
from kvplan.core.overhead import Overhead
from kvplan.core.units import GIB, MIB
from kvplan.engines.vllm.activations import phases, workspace_bytes
from kvplan.engines.vllm.overhead import overhead
from kvplan.engines.vllm.profile_run import OFFLINE, SERVER, Batch, ProfileRun, batch_limits, profile_run
from kvplan.engines.vllm.rules import V0_25, V0_32, V0_33, Rules

ROWS: list[dict[str, Any]] = vectors("vllm_0.25_startups.json")["rows"]
NAMES = [row["run"] for row in ROWS]
ROUNDING_BYTES = int(0.0051 * GIB)
WEIGHT_FORMATS = {GPT_OSS: "mxfp4"}
MIXTRAL, QWEN_MOE, V2_LITE = "mistralai__Mixtral-8x7B-v0.1", "Qwen__Qwen3-30B-A3B", "deepseek-ai__DeepSeek-V2-Lite"


def run_of(
    found: Model,
    max_model_len: int = 32768,
    *,
    rules: Rules = V0_25,
    num_layers: int | None = None,
    usage: str = OFFLINE,
    tp: int = 1,
    eager: bool = False,
    weight_format: str | None = None,
    **settings: Any,
) -> ProfileRun:
    """The profiling batch of a model's first layers on an H200."""
    architecture = found.architecture
    assert architecture.widths is not None
    truncated = replace(found, architecture=replace(architecture, layers=architecture.layers[:num_layers]))
    options = {"tp": tp}
    batch = {"max_num_batched_tokens": None, **settings}
    chosen = replace(settings_of(options, max_model_len), **batch)
    request = request_of(truncated, engine_of("0.25", {}), options, chosen)
    return profile_run(request, architecture.widths, rules, usage=usage, eager=eager, weight_format=weight_format)


def row_run(row: dict[str, Any]) -> ProfileRun:
    """The profiling batch of a measured start-up."""
    args = row["args"]
    settings = {name: args[name] for name in ("max_num_batched_tokens", "max_num_seqs") if name in args}
    return run_of(
        models_of(row["config"])[0],
        args["max_model_len"],
        num_layers=row["num_layers"],
        eager=args.get("enforce_eager", False),
        weight_format=WEIGHT_FORMATS.get(row["config"]),
        **settings,
    )


def answers() -> list[tuple[dict[str, Any], Overhead]]:
    return [(row, overhead(row_run(row))) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_batch_and_its_runner_are_those_of_the_start(row: dict[str, Any]) -> None:
    run = row_run(row)
    assert run.batch == Batch(row["max_num_batched_tokens"], row["max_num_seqs"])
    assert run.second_runner == row["second_runner"]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_activation_peak_is_within_8_mib_of_the_log(row: dict[str, Any]) -> None:
    activation = overhead(row_run(row)).activation_bytes
    assert abs(activation - row["activation_gib"] * GIB) <= 8 * MIB


@pytest.mark.parametrize("row", [row for row in ROWS if row["peak_bytes"]], ids=lambda row: row["run"])
def test_the_activation_peak_is_the_allocators_within_2_mib(row: dict[str, Any]) -> None:
    assert abs(overhead(row_run(row)).activation_bytes - row["peak_bytes"]) <= 2 * MIB


@pytest.mark.parametrize("row", [row for row in ROWS if row["peak_bytes"]], ids=lambda row: row["run"])
def test_large_tensors_of_the_peak_are_those_that_were_alive(row: dict[str, Any]) -> None:
    """The sum over tensors of 4 MiB and more; the rest is below 3 MiB."""
    alive = sum(count * size for count, size in row["live_tensors"])
    predicted = max(phase.total_bytes for phase in phases(row_run(row)))
    assert abs(predicted - alive) <= 3 * MIB


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_memory_outside_pytorch_is_within_10_mib_of_the_log(row: dict[str, Any]) -> None:
    assert abs(overhead(row_run(row)).non_torch_bytes - row["non_torch_gib"] * GIB) <= 10 * MIB


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_graphs_are_subtracted_as_estimated_within_the_stated_error(row: dict[str, Any]) -> None:
    answer = overhead(row_run(row))
    if row["cuda_graph_estimate_gib"] is None:
        assert answer.cuda_graph_bytes == 0
    else:
        assert abs(answer.cuda_graph_bytes - row["cuda_graph_estimate_gib"] * GIB) <= 50 * MIB


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_captured_graphs_are_within_a_third_of_a_gib(row: dict[str, Any]) -> None:
    answer = overhead(row_run(row))
    captured = answer.cuda_graph_bytes + answer.captured_graph_bytes
    assert abs(captured - (row["cuda_graph_actual_gib"] or 0) * GIB) <= 300 * MIB


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_cache_gets_what_the_log_says_within_the_expected_error(row: dict[str, Any]) -> None:
    """Total x utilization less weights (as logged) and overhead is the memory that the engine gave the cache."""
    answer = overhead(row_run(row))
    asked = 150109880320 * row["args"].get("gpu_memory_utilization", 0.92)
    available = asked - row["weights_gib"] * GIB - answer.total_bytes
    assert abs(available - row["available_kv_gib"] * GIB) <= answer.expected_error_bytes + 2 * ROUNDING_BYTES


def test_the_cache_is_within_a_tenth_of_a_percent_on_average() -> None:
    errors = []
    for row, answer in answers():
        asked = 150109880320 * row["args"].get("gpu_memory_utilization", 0.92)
        available = asked - row["weights_gib"] * GIB - answer.total_bytes
        errors.append(abs(available / (row["available_kv_gib"] * GIB) - 1))
    assert sum(errors) / len(errors) < 0.001


def test_offline_batches_are_twice_the_servers() -> None:
    h200 = run_of(model(LLAMA)).batch, run_of(model(LLAMA), usage=SERVER).batch
    assert h200 == (Batch(16384, 1024), Batch(8192, 1024))


def test_batches_never_exceed_what_their_requests_hold() -> None:
    assert batch_limits(EngineSettings(max_num_seqs=4), 1000, V0_25, OFFLINE) == Batch(4000, 4)


def test_small_devices_run_256_requests() -> None:
    settings = replace(settings_of({"compute_capability": "8.9"}, 4096), max_num_batched_tokens=None)
    assert batch_limits(settings, 4096, V0_25, SERVER) == Batch(2048, 256)
    assert batch_limits(settings, 4096, V0_25, OFFLINE) == Batch(8192, 256)


def test_an_unknown_usage_is_refused() -> None:
    with pytest.raises(UsageError, match="usage"):
        batch_limits(EngineSettings(), 4096, V0_25, "batch")


def test_512_tokens_are_captured_in_51_sizes_and_1024_in_83() -> None:
    """As vLLM 0.25.1 logged for Mixtral and gpt-oss: PIECEWISE=51 (largest=512), PIECEWISE=83 (largest=1024)."""
    sizes = run_of(model(MIXTRAL)).graph_sizes, run_of(model(GPT_OSS)).graph_sizes
    assert [(len(found), found[-1]) for found in sizes] == [(51, 512), (83, 1024)]


def test_few_requests_capture_graphs_of_twice_as_many_tokens() -> None:
    assert run_of(model(LLAMA), max_num_seqs=16).graph_sizes[-1] == 32


def test_an_eager_model_has_no_graphs_and_no_compilation() -> None:
    run = run_of(model(LLAMA), eager=True)
    answer = overhead(run)
    assert (answer.cuda_graph_bytes, answer.captured_graph_bytes) == (0, 0)
    assert "compilation" not in {phase.name for phase in phases(run)}


def test_the_workspace_of_experts_is_that_of_triton_experts() -> None:
    """Mixtral and DeepSeek-V2-Lite: the workspaces that vLLM 0.25.1 allocated for 16384 tokens."""
    assert workspace_bytes(run_of(model(MIXTRAL))) == 2818572288
    assert workspace_bytes(run_of(model(V2_LITE))) == 956301312


def test_the_workspace_of_experts_is_still_there_when_the_first_runner_samples() -> None:
    run = run_of(model(QWEN_MOE))
    sampler = next(phase for phase in phases(run) if phase.name.startswith("sampler"))
    # 16384 tokens x 8 chosen x (2048 + 2048) elements: the hidden size is wider than an expert of 768
    assert workspace_bytes(run) == 16384 * 8 * 4096 * 2
    assert sampler.total_bytes > workspace_bytes(run) + 14 * 1024 * 151936


def test_tensor_parallelism_splits_blocks_but_not_the_sampler() -> None:
    one, two = run_of(model(LLAMA)), run_of(model(LLAMA), tp=2)
    by_name = [{phase.name: phase.total_bytes for phase in phases(run)} for run in (one, two)]
    assert by_name[0]["dense feed-forward"] > by_name[1]["dense feed-forward"]
    assert by_name[0]["sampler of the second runner"] == by_name[1]["sampler of the second runner"]


def test_several_ranks_hold_communication_buffers_and_say_that_they_are_estimated() -> None:
    one, two = overhead(run_of(model(LLAMA))), overhead(run_of(model(LLAMA), tp=2))
    assert (one.certainty, two.certainty) == ("rule", "estimate")
    assert two.non_torch_bytes - one.non_torch_bytes == GIB
    assert two.expected_error_bytes > GIB // 2


@pytest.mark.parametrize("rules", [V0_32, V0_33], ids=lambda rules: rules.version)
def test_later_releases_run_everything_on_the_second_runner_and_subtract_its_graphs(rules: Rules) -> None:
    run = run_of(model(MIXTRAL), rules=rules)
    assert run.second_runner
    assert overhead(run).cuda_graph_bytes > 0


def test_later_releases_count_the_sampling_state() -> None:
    """0.32 ``v1/worker/gpu/sample/penalties.py:40``: a 32-bit count and a bit for each token of the vocabulary."""
    run = run_of(model(LLAMA), rules=V0_32)
    kept = overhead(run).activation_bytes - max(phase.total_bytes for phase in phases(run))
    assert kept == 1024 * (128256 + 4008) * 4


def test_lines_name_every_tensor_of_the_peak_with_its_size() -> None:
    lines = "\n".join(overhead(run_of(model(LLAMA))).lines)
    assert "16,384 x 2 x 14,336 x 2 B = 939,524,096 B" in lines
    assert "nothing is subtracted" in lines


def test_a_peak_of_compilation_is_said_to_need_a_cold_cache() -> None:
    answer = overhead(run_of(model("google__gemma-3-27b-it")))
    assert any("warm cache" in line for line in answer.lines)
