"""Every row of what vLLM's own planner answered: ``tests/vectors/vllm_*.json``, written by ``tests/parity``.

Each model is asked as its config states it and as the packaged spec states it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from vllm_questions import (
    GIB,
    TESTS,
    answer,
    ask,
    engine_of,
    from_config,
    models_of,
    request_of,
    settings_of,
    vectors,
)

from kvplan.core.engine import Allocation
from kvplan.core.errors import DoesNotFitError
from kvplan.core.model import Model
from kvplan.engines.vllm import VERSIONS

RELEASES = tuple(version for version in VERSIONS if (TESTS / "vectors" / f"vllm_{version}.json").is_file())
ROWS = {version: vectors(f"vllm_{version}.json")["rows"] for version in RELEASES}
FIGURES = ("bytes_per_block", "bytes_per_block_by_stage", "blocks_per_request", "num_blocks", "capacity_tokens")

NOT_OF_THE_CACHE = {
    "CohereLabs__aya-23-35B": "vLLM refuses the weights of this copy (exl2)",
    "microsoft__phi-2": "vLLM refuses a config without a number of KV heads, which later copies have",
}
"""Refusals that hang on one copy of a checkpoint."""

OTHER_LENGTH = {("0.25", "arcee-ai__AFM-4.5B"): "0.25 multiplies YaRN's original length, 0.32 reads the stated one"}
"""Rows for a length that the model's config does not state."""

UNTRUE_SPEC = {"mistralai__Mistral-7B-Instruct-v0.2"}
"""The asset lacks the published ``sliding_window: null``, so vLLM was asked another model than the spec states."""


def by_model(version: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each model that kvplan can answer."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in ROWS[version]:
        # kvplan has no option for another compute dtype, and what a mock refuses, vLLM does not
        mocked = "dtype" in row["options"] or "MagicMock" in row.get("refused", "")
        known = row["config"] in NOT_OF_THE_CACHE or (version, row["config"]) in OTHER_LENGTH
        if not mocked and not known:
            rows[row["config"]].append(row)
    return rows


def resolved(row: dict[str, Any], plain: dict[str, Any], name: str) -> Any:
    """A resolved option of a row, which leaves out what the model's row without options says."""
    return row.get("resolved", {}).get(name, plain.get("resolved", {}).get(name))


def differences(model: Model, version: str, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """What kvplan answers otherwise than vLLM, as (kvplan's, vLLM's)."""
    options = row["options"]
    length = options.get("max_model_len") or resolved(row, plain, "max_model_len") or 2048
    got = answer(model, version, options, length)
    if "refused" in row:
        return {} if "refused" in got else {"refused": (got, row["refused"])}
    wanted = {name: row[name] for name in (*FIGURES, "max_concurrency", "does_not_fit") if name in row}
    if "does_not_fit" in row:
        wanted = {"does_not_fit": row["does_not_fit"]}
    elif "block_size" not in wanted and not row.get("attention_free"):
        wanted["block_size"] = resolved(row, plain, "block_size")
    return {name: (got.get(name, got), value) for name, value in wanted.items() if got.get(name) != value}


CASES = [(version, name) for version in RELEASES for name in by_model(version)]


@pytest.mark.parametrize(("version", "name"), CASES, ids=[f"{version}-{name}" for version, name in CASES])
def test_every_row_of_a_model_is_vllms(version: str, name: str) -> None:
    rows = by_model(version)[name]
    plain = next((row for row in rows if not row["options"]), {})
    models = [model for model in models_of(name) if name not in UNTRUE_SPEC or model is from_config(name)]
    assert models
    for model in models:
        for row in rows:
            assert not differences(model, version, row, plain), (model.source, row["options"])


def test_the_rows_cover_refusals_and_memory_that_is_too_small() -> None:
    rows = [row for rows in by_model("0.32").values() for row in rows]
    assert len(rows) >= 1300
    assert sum("refused" in row for row in rows) >= 150
    assert sum("does_not_fit" in row for row in rows) >= 14


@pytest.mark.parametrize("start", vectors("vllm_0.32_starts.json")["rows"], ids=lambda start: start["config"])
def test_started_engines_log_what_is_predicted(start: dict[str, Any]) -> None:
    """CPU starts: blocks of 128 tokens, and one batch in flight since scheduling is not asynchronous there."""
    options = {
        "block_size": 128,
        "kv_memory_bytes": start["kv_memory_bytes"],
        "max_num_batched_tokens": start["max_in_flight_tokens"],
        "prefix_caching": start["prefix_caching"],
    }
    for model in models_of(start["config"]):
        engine = replace(engine_of("0.32", options), async_scheduling=False)
        allocation = engine.allocate(request_of(model, engine, options, settings_of(options, start["max_model_len"])))
        assert allocation.block_tokens == start["block_size"]
        assert allocation.num_blocks == start["num_blocks"]
        assert allocation.capacity_tokens == start["logged_tokens"]
        assert allocation.log_line == (
            f"GPU KV cache size: {start['logged_tokens']:,} tokens, Maximum concurrency for "
            f"{start['max_model_len']:,} tokens per request: {start['logged_concurrency']:.2f}x"
        )


def test_what_layers_hold_never_exceeds_what_is_allocated() -> None:
    for version, name in CASES:
        row = next((row for row in by_model(version)[name] if not row["options"] and "num_blocks" in row), None)
        if row is None:
            continue
        allocation = ask(models_of(name)[0], version, {}, row["resolved"]["max_model_len"])
        for rank in allocation.stages:
            assert sum(group.count * group.allocated_bytes for group in rank.groups) <= rank.allocated_bytes
            assert rank.allocated_bytes == rank.sequence_bytes + (rank.bytes_per_block or 0)


LOGGED = [(row, "0.25") for row in vectors("vllm_0.25_h200.json")["rows"]]
LOGGED += [(row, "0.25") for row in vectors("vllm_published.json")["rows"] if "capacity_tokens" in row]
ROUNDING_GIB = 0.005


def logged_answer(row: dict[str, Any], version: str, memory_gib: float) -> Allocation:
    """What a real engine's options give, with the cache memory that it logged."""
    options = {
        "kv_cache_dtype": row["kv_cache_dtype"],
        "max_num_batched_tokens": row["max_num_batched_tokens"],
        "prefix_caching": row.get("prefix_caching"),
        "kv_memory_bytes": int(memory_gib * GIB),
        "flashinfer": True,
    }
    return ask(models_of(row["config"])[0], version, options, row["max_model_len"])


@pytest.mark.parametrize(
    ("row", "version"), LOGGED, ids=[f"{row['config']}-{row['kv_cache_dtype']}" for row, _ in LOGGED]
)
def test_real_start_ups_log_a_capacity_within_the_rounding_of_their_memory(row: dict[str, Any], version: str) -> None:
    low, high = (
        logged_answer(row, version, row["available_kv_gib"] + sign * ROUNDING_GIB).capacity_tokens for sign in (-1, 1)
    )
    assert low is not None
    assert high is not None
    assert low <= row["capacity_tokens"] <= high
    assert high - low <= 0.001 * high  # the rounding allows for a tenth of a percent at most
    if row.get("block_size"):
        assert logged_answer(row, version, row["available_kv_gib"]).block_tokens == row["block_size"]


def test_a_user_was_told_that_one_request_needs_24_gib() -> None:
    """vllm-project/vllm#34076: Qwen3-Coder-30B-A3B at 262,144 tokens."""
    row = next(row for row in vectors("vllm_published.json")["rows"] if "needed_gib" in row)
    with pytest.raises(DoesNotFitError, match=r"\(24\.0 GiB KV cache is needed"):
        logged_answer(row, "0.25", 20.0)
