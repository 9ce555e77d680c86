"""A fit becomes a launch plan: what the engine loads, and every option that the fit rests on."""

from __future__ import annotations

from pathlib import PurePath

from kvplan.core.engine import Engine
from kvplan.core.fit import FitResult
from kvplan.core.launch import LaunchPlan
from kvplan.core.model import Model
from kvplan.core.policy import describe_policy

HUB = "https://huggingface.co/"

STATES_SLOTS = ("llamacpp", "ollama", "exllamav3", "transformers", "mlx")
"""Engines that set memory aside for as many requests as they are told; others take as many as fit."""

LEAVES_TOWERS_OUT = ("vllm", "llamacpp")
"""Engines with an option to serve text alone."""


def plan_launch(result: FitResult, engine: Engine, word: str, host_bytes: int = 0) -> LaunchPlan:
    """The start of a fit with ``word`` for its cache dtype, in the engine's own spelling.

    ``host_bytes`` of host memory are for caches that wait, all ranks and replicas together.
    """
    request, size = result.request, result.request.size
    settings, parameters = size.settings, result.model.architecture.parameters
    share = request.memory_utilization
    slots = size.parallel.sequences_per_replica(size.concurrency)[0] if engine.name in STATES_SLOTS else None
    has_towers = parameters is not None and bool(parameters.towers)
    return LaunchPlan(
        model=loaded_name(result.model),
        engine=engine.name,
        engine_version=engine.version,
        cache_word=word,
        native_layers=tuple(sorted(size.choice.kv_format.native_layers)),
        native_windows=size.choice.kv_format.native_windows,
        policy=describe_policy(size.choice.policy),
        parallel=size.parallel,
        max_model_len=settings.max_model_len or size.context_tokens,
        max_num_seqs=settings.max_num_seqs or slots,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        memory_utilization=None if share is None else float(share),
        block_tokens=settings.block_tokens,
        attention_backend=settings.attention_backend,
        prefix_caching=settings.prefix_caching,
        expert_parallel=request.expert_parallel,
        eager=request.eager,
        text_only=request.text_only and has_towers and engine.name in LEAVES_TOWERS_OUT,
        host_cache_bytes=host_bytes,
        device=request.accelerator.name,
        vendor=request.accelerator.vendor,
        num_devices=request.num_devices,
    )


def loaded_name(model: Model) -> str:
    """What an engine loads: a Hub id, the folder of a ``config.json``, or a GGUF file; else the model's name."""
    if model.source.startswith(HUB):
        return model.source.removeprefix(HUB).strip("/")
    path = PurePath(model.source)
    if path.name == "config.json":
        return str(path.parent)
    return model.source if path.suffix == ".gguf" or path.name == model.source else model.name
