"""A start-up log beside the prediction for the same start: what the log leaves open is asked of the user's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kvplan.core.budget import RankBudget
from kvplan.core.errors import UsageError
from kvplan.core.fit import FitResult
from kvplan.core.measured import MeasuredStart
from kvplan.engines import engine_versions
from kvplan.planning.fit_request import FitWords

MEASURED = ("weights", "activation", "cuda_graph", "non_torch", "kv_cache")
"""Shares of a rank that both a budget and a log may state."""


def words_from_log(start: MeasuredStart, words: FitWords) -> tuple[FitWords, tuple[str, ...]]:
    """The words of the start that the log describes, and what had to be assumed.

    What the user says wins over the log. Raises UsageError where neither names the model.
    """
    model = words.model or start.model
    if not model:
        raise UsageError("the log does not name its model", "give --model")
    said = start.arguments
    engine, note = _engine(start)
    stated: dict[str, Any] = {
        "ctx": said.max_seq_len,
        "max_model_len": said.max_seq_len,
        "tp": said.tp,
        "pp": said.pp,
        "dp": said.dp,
        "kv_dtype": said.kv_cache_dtype,
        "gpu_memory_utilization": None if said.gpu_memory_utilization is None else str(said.gpu_memory_utilization),
        "max_num_batched_tokens": said.max_num_batched_tokens,
        "max_num_seqs": said.max_num_seqs,
        "enforce_eager": said.enforce_eager,
        "no_prefix_caching": None if said.prefix_caching is None else not said.prefix_caching,
        "gpu": start.accelerator,
        "gpu_memory": None if start.total_bytes is None or words.gpu else str(start.total_bytes),
    }
    plain = FitWords(model=model)
    changes: dict[str, Any] = {
        name: value if isinstance(value, bool) or name in ("tp", "pp", "dp") else str(value)
        for name, value in stated.items()
        if value is not None and getattr(words, name) == getattr(plain, name)
    }
    chosen = words.engine if words.engine != plain.engine else engine
    return replace(replace(words, model=model, engine=chosen), **changes), note


def _engine(start: MeasuredStart) -> tuple[str, tuple[str, ...]]:
    """The engine with the nearest release that kvplan has rules of."""
    known = engine_versions(start.engine)
    if start.version is None or not known:
        return start.engine, ()
    nearest = min(known, key=lambda version: _distance(version, start.version or ""))
    if start.version.startswith(nearest) or nearest.startswith(start.version):
        return f"{start.engine}@{nearest}" if len(known) > 1 else start.engine, ()
    note = f"the log is of {start.engine} {start.version}; the rules of {nearest} are the nearest that kvplan has"
    return f"{start.engine}@{nearest}" if len(known) > 1 else start.engine, (note,)


def _distance(left: str, right: str) -> tuple[int, ...]:
    pairs = zip(_numbers(left), _numbers(right))
    return tuple(abs(one - other) for one, other in pairs)


def _numbers(version: str) -> list[int]:
    return [int(piece) for piece in version.split(".") if piece.isdigit()]


def measured_fields(start: MeasuredStart) -> dict[str, int | float | None]:
    """The ``measured`` of the JSON contract; None where the log is silent."""
    graphs = start.cuda_graph_estimate_bytes
    return {
        "weights_bytes": start.weights_bytes,
        "activation_bytes": start.activation_bytes,
        "cuda_graph_bytes": start.cuda_graph_bytes if graphs is None else graphs,
        "non_torch_bytes": start.non_torch_bytes,
        "kv_cache_bytes": start.kv_cache_bytes,
        "capacity_tokens": start.capacity_tokens,
        "max_concurrency": start.max_concurrency,
    }


def predicted_fields(result: FitResult) -> dict[str, int | float | None]:
    """The same figures as predicted, of the fullest rank."""
    budget: RankBudget = min(result.budgets, key=lambda entry: entry.kv_cache.size_bytes)
    figures: dict[str, int | float | None] = {f"{name}_bytes": getattr(budget, name).size_bytes for name in MEASURED}
    capacity = result.capacity
    figures["capacity_tokens"] = capacity.capacity_tokens if capacity else None
    figures["max_concurrency"] = capacity.max_concurrency if capacity else None
    return figures
