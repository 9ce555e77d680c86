"""SGLang's engine against what SGLang 0.5.23's own code answers (``tests/parity/sglang_oracle.py``), to the byte."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import Allocation, EngineRequest, EngineSettings
from kvplan.core.errors import KvplanError
from kvplan.core.geometry import place_layers
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.engines.sglang import ENGINE, SGLang, deepseek_v4
from kvplan.engines.sglang.backends import choose_paging
from kvplan.engines.sglang.hardware import read_hardware
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import counted_layers, engine_request, split_stages
from kvplan.specs.reference import read_file

TESTS = Path(__file__).parents[1]
ROWS: list[dict[str, Any]] = json.loads((TESTS / "vectors" / "sglang_0.5.23.json").read_text())["rows"]
GPUS = {  # compute capability and memory in MiB, as tests/parity/sglang_stand_in.py has them
    "A100": ((8, 0), 81_920),
    "H100": ((9, 0), 81_559),
    "B200": ((10, 0), 183_359),
    "RTX_PRO_6000": ((12, 0), 97_887),
}
ANSWERED = [row for row in ROWS if "refused" not in row]
REFUSED = [row for row in ROWS if "refused" in row]


def _name(row: dict[str, Any]) -> str:
    hidden = {"config", "resolved", "ranks", "max_total_num_tokens", "max_mamba_cache_size", "refused"}
    return "-".join([row["config"], *(f"{key}={value}" for key, value in row.items() if key not in hidden)])


BY_NAME = {_name(row): row for row in ROWS}


@cache
def _model(config: str) -> Model:
    return read_file(TESTS / "assets" / "configs" / f"{config}.json")


def _engine(row: dict[str, Any]) -> SGLang:
    options: dict[str, Any] = {}
    for key in ("swa_full_tokens_ratio", "mamba_full_memory_ratio"):
        if key in row:
            options[key] = Fraction(str(row[key]))
    for key in ("disable_hybrid_swa_memory", "mamba_ssm_dtype", "mamba_radix_cache_strategy"):
        if key in row:
            options[key] = row[key]
    if "dsa_prefill_backend" in row:
        options["dsa_backend"] = row["dsa_prefill_backend"]
    return replace(ENGINE, **options)


def _settings(row: dict[str, Any]) -> EngineSettings:
    capability, mebibytes = GPUS[row["gpu"]]
    drafted = row.get("speculative_num_draft_tokens")
    return EngineSettings(
        accelerator=Accelerator(
            name=row["gpu"], vendor="nvidia", memory_bytes=mebibytes << 20, compute_capability=capability
        ),
        kv_memory_bytes=row["memory_bytes"],
        block_tokens=row.get("page_size"),
        attention_backend=row.get("attention_backend"),
        prefix_caching=False if row.get("disable_radix_cache") else None,
        max_num_seqs=row.get("max_running_requests"),
        max_num_batched_tokens=row.get("chunked_prefill_size"),
        num_speculative_tokens=drafted - 1 if drafted else None,
    )


def _request(row: dict[str, Any], context: int) -> EngineRequest:
    model = _model(row["config"])
    words = RequestWords(
        kv_dtype=row.get("kv_cache_dtype", "auto"),
        include_draft="draft_layers" in row,
        parallel=Parallel(tp=row.get("tp", 1), pp=row.get("pp", 1), dcp=row.get("dcp", 1)),
        settings=_settings(row),
    )
    request = build_request(model, context, words, _engine(row))
    placed = place_layers(counted_layers(model, request), request.choice.kv_format)
    stages = split_stages(placed, words.parallel.pp, model.architecture.num_layers)
    return engine_request(model, request, stages)


def _allocate(row: dict[str, Any]) -> Allocation:
    """The answer for a request of 1,024 tokens."""
    return _allocate_named(_name(row))


@cache
def _allocate_named(name: str) -> Allocation:
    row = BY_NAME[name]
    return _engine(row).allocate(_request(row, 1024))


@pytest.mark.parametrize("row", ANSWERED, ids=_name)
def test_a_memory_holds_the_tokens_that_sglang_counts(row: dict[str, Any]) -> None:
    answer = _allocate(row)
    if row["ranks"][0]["pool_bytes"]:
        assert answer.capacity_tokens == row["max_total_num_tokens"] * row.get("dcp", 1)
    else:  # no attention: SGLang's figure is the context
        assert answer.capacity_tokens is None
    if row["max_mamba_cache_size"] is not None:
        assert answer.log_line is not None
        assert f"max_mamba_cache_size: {row['max_mamba_cache_size']}" in answer.log_line


@pytest.mark.parametrize("row", ANSWERED, ids=_name)
def test_backend_and_page_size_are_those_that_sglang_resolves(row: dict[str, Any]) -> None:
    request = _request(row, 1024)
    traits = _engine(row).traits(request)
    name = request.choice.kv_format.key.name
    hardware = read_hardware(request.settings, name)
    paging = choose_paging(request.settings, traits, hardware, name)
    resolved = row["resolved"]
    assert paging.page_tokens == resolved["page_size"]
    assert paging.backend == (resolved["attention_backend"] or paging.backend)
    chunk = resolved["chunked_prefill_size"]
    assert _allocate(row).max_num_batched_tokens == (None if chunk == -1 else chunk)


@pytest.mark.parametrize("row", [row for row in ANSWERED if "draft_layers" not in row], ids=_name)
def test_pools_take_the_bytes_of_sglangs_own_tensors(row: dict[str, Any]) -> None:
    request = _request(row, max(row["max_total_num_tokens"], 1) * row.get("dcp", 1))
    request = replace(request, context_tokens=request.context_tokens - request.encoder_tokens)
    if _model(row["config"]).family == "deepseek_v4":
        assert _compressed_bytes(request, row) == [rank["pool_bytes"] for rank in row["ranks"]]
        return
    answer = _engine(row).allocate(request)
    slots = row["max_mamba_cache_size"]
    for rank, expected in zip(answer.stages, row["ranks"]):
        states = sum(group.count * group.allocated_bytes for group in rank.groups if group.item.kind.states())
        if slots is not None:  # one request's slots and the padding slot against all slots and it
            each = expected["state_bytes"] // (slots + 1)
            assert expected["state_bytes"] == each * (slots + 1)
            assert states % each == 0
            states += each
        assert rank.allocated_bytes - states == expected["pool_bytes"]


def _compressed_bytes(request: EngineRequest, row: dict[str, Any]) -> list[int]:
    ratio = row.get("swa_full_tokens_ratio", deepseek_v4.RATIO)
    found = []
    for stage, rank in zip(request.stages, row["ranks"]):
        pools = deepseek_v4.read_pools(request, stage, ratio)
        sizes = pools.of_tokens(rank["full_tokens"], rank["max_running_requests"])
        assert sizes.windowed == rank["swa_tokens"]
        found.append(deepseek_v4.allocate_rank(request, stage, pools, sizes).allocated_bytes)
    return found


@pytest.mark.parametrize("row", [row for row in ANSWERED if "k_bytes" in row["ranks"][0]], ids=_name)
def test_the_log_line_says_the_sizes_of_keys_and_values(row: dict[str, Any]) -> None:
    log = _allocate(row).log_line
    rank = row["ranks"][0]
    if log is None or "SWA KV Cache" in log or row.get("pp", 1) > 1 or not rank["pool_bytes"]:
        return
    keys, values = (rank[name] / (1 << 30) for name in ("k_bytes", "v_bytes"))
    assert f"K size: {keys:.2f} GB, V size: {values:.2f} GB" in log


@pytest.mark.parametrize("row", REFUSED, ids=_name)
def test_what_sglang_refuses_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(KvplanError):
        _allocate(row)


def test_every_row_has_a_name_of_its_own() -> None:
    assert len(BY_NAME) == len(ROWS) > 200
