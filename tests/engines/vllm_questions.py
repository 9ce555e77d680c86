"""Asks kvplan's vLLM what a row of a vector file asked vLLM's own planner (``tests/parity/vllm_planner.py``)."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import Allocation, EngineRequest, EngineSettings
from kvplan.core.errors import DoesNotFitError, KvplanError
from kvplan.core.geometry import place_layers
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.engines.vllm import VERSIONS, Vllm
from kvplan.planning.request import RequestWords, build_choice, model_facts
from kvplan.planning.size import split_stages
from kvplan.specs.catalogue import find_spec, load_found
from kvplan.specs.config_json import read_config

TESTS = Path(__file__).parent.parent
GIB = 1 << 30
DEVICE_GIB = {"8.0": 80, "8.9": 48, "9.0": 140, "10.0": 178, "12.0": 96}
"""Memory of the planner's stand-in devices."""


def vectors(name: str) -> dict[str, Any]:
    """A file of ``tests/vectors``."""
    found: dict[str, Any] = json.loads((TESTS / "vectors" / name).read_text(encoding="utf-8"))
    return found


@cache
def from_config(name: str) -> Model | None:
    """The model of a config among the test assets, if there is one."""
    path = TESTS / "assets" / "configs" / f"{name}.json"
    return read_config(json.loads(path.read_text(encoding="utf-8")), path.name, name) if path.is_file() else None


@cache
def from_spec(name: str) -> Model | None:
    """The packaged model of that name, if there is one."""
    found = find_spec(name.replace("__", "/", 1))
    return load_found(found) if found is not None else None


def models_of(name: str) -> list[Model]:
    """The model as a config states it and as the package states it, whichever there are."""
    return [model for model in (from_config(name), from_spec(name)) if model is not None]


def engine_of(version: str, options: dict[str, Any]) -> Vllm:
    """The release with the row's engine options."""
    return replace(
        VERSIONS[version],
        flashinfer=bool(options.get("flashinfer")),
        mamba_ssm_cache_dtype=options.get("mamba_ssm_cache_dtype") or "auto",
    )


def settings_of(options: dict[str, Any], max_model_len: int) -> EngineSettings:
    """The row's settings; what it leaves open is the planner script's default."""
    capability = options.get("compute_capability", "9.0")
    major, minor = map(int, capability.split("."))
    return EngineSettings(
        accelerator=Accelerator(
            name="stand-in",
            vendor="nvidia",
            memory_bytes=DEVICE_GIB[capability] * GIB,
            compute_capability=(major, minor),
        ),
        kv_memory_bytes=options.get("kv_memory_bytes", 40 * GIB),
        block_tokens=options.get("block_size"),
        prefix_caching=options.get("prefix_caching"),
        max_model_len=max_model_len,
        max_num_batched_tokens=options.get("max_num_batched_tokens", 8192),
        num_speculative_tokens=(options.get("speculative") or {}).get("num_speculative_tokens"),
    )


def request_of(model: Model, engine: Vllm, options: dict[str, Any], settings: EngineSettings) -> EngineRequest:
    """The question of one row: a request of the longest length."""
    parallel = Parallel(tp=options.get("tp", 1), pp=options.get("pp", 1), dcp=options.get("dcp", 1))
    words = RequestWords(kv_dtype=options.get("kv_cache_dtype", "auto"), settings=settings)
    choice = build_choice(model, words, engine)
    layers, drafts = model.architecture.layers, model.architecture.draft_layers if options.get("speculative") else ()
    placed = place_layers(layers + drafts, choice.kv_format)
    assert settings.max_model_len is not None
    return EngineRequest(
        stages=split_stages(placed, parallel.pp, len(layers)),
        facts=model_facts(model),
        choice=choice,
        context_tokens=settings.max_model_len,
        parallel=parallel,
        num_draft_layers=len(drafts),
        settings=settings,
    )


def ask(model: Model, version: str, options: dict[str, Any], max_model_len: int) -> Allocation:
    """kvplan's answer to a row. Raises what the engine raises."""
    engine = engine_of(version, options)
    return engine.allocate(request_of(model, engine, options, settings_of(options, max_model_len)))


def answer(model: Model, version: str, options: dict[str, Any], max_model_len: int) -> dict[str, Any]:
    """The same in the words of the vector files."""
    try:
        allocation = ask(model, version, options, max_model_len)
    except DoesNotFitError as error:
        return {"does_not_fit": error.message}
    except KvplanError as error:
        return {"refused": error.message}
    return {
        "block_size": allocation.block_tokens,
        "bytes_per_block": max(rank.bytes_per_block or 0 for rank in allocation.stages),
        "bytes_per_block_by_stage": [rank.bytes_per_block or 0 for rank in allocation.stages],
        "blocks_per_request": allocation.stages[0].blocks_per_sequence,
        "num_blocks": allocation.num_blocks,
        "capacity_tokens": allocation.capacity_tokens,
        "max_concurrency": allocation.max_concurrency,
    }


LLAMA, GPT_OSS, GEMMA = "meta-llama__Llama-3.1-8B", "openai__gpt-oss-20b", "google__gemma-3-27b-it"
QWEN_NEXT, V32, JAMBA = "Qwen__Qwen3-Next-80B-A3B-Instruct", "deepseek-ai__DeepSeek-V3.2", "ai21labs__Jamba-v0.1"
R1, MAMBA, NEMOTRON = "deepseek-ai__DeepSeek-R1", "tiiuae__falcon-mamba-7b", "nvidia__Nemotron-H-4B-Base-8K"


def model(name: str) -> Model:
    found = from_spec(name)
    assert found is not None
    return found


def plan(name: str, tokens: int = 131072, version: str = "0.32", **options: Any) -> Allocation:
    return ask(model(name), version, {"kv_memory_bytes": 1 << 50, **options}, tokens)


def rank(name: str, tokens: int = 131072, version: str = "0.32", **options: Any) -> tuple[int | None, int | None]:
    """Bytes of a block and blocks of a request, on the first stage."""
    first = plan(name, tokens, version, **options).stages[0]
    return first.bytes_per_block, first.blocks_per_sequence


def with_settings(name: str, **changes: Any) -> Allocation:
    engine = engine_of("0.32", {})
    settings = replace(settings_of({"kv_memory_bytes": 1 << 50}, 4096), **changes)
    return engine.allocate(request_of(model(name), engine, {}, settings))


def device(name: str, gib: int, capability: tuple[int, int] = (9, 0)) -> Accelerator:
    return Accelerator(name=name, vendor="nvidia", memory_bytes=gib * GIB, compute_capability=capability)
