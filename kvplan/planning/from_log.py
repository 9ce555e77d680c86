"""A start-up log beside the prediction for the same start: what the log leaves open is asked of the user's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kvplan.core.errors import UsageError
from kvplan.core.fit import FitResult
from kvplan.core.measured import MeasuredStart
from kvplan.engines import engine_versions
from kvplan.planning.accelerators import packaged_accelerators
from kvplan.planning.fit_request import FitWords
from kvplan.specs.catalogue import find_spec

MEMORY_TOLERANCE = 500
"""A device is taken for one whose memory is within one part in so many: logs round to 0.01 or 0.1 GiB."""

MEASURED = ("weights", "activation", "cuda_graph", "non_torch", "kv_cache")
"""Shares of a rank that both a budget and a log may state."""


def words_from_log(start: MeasuredStart, words: FitWords) -> tuple[FitWords, tuple[str, ...]]:
    """The words of the start that the log describes, and what had to be assumed.

    What the user says wins over the log. Raises UsageError where neither names the model.
    """
    if not (words.model or start.model):
        raise UsageError("the log does not name its model", "give --model")
    model = words.model or model_reference(start.model or "")
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
        **_device(start, words),
    }
    plain = FitWords(model=model)
    changes: dict[str, Any] = {
        name: value if isinstance(value, bool) or name in ("tp", "pp", "dp") else str(value)
        for name, value in stated.items()
        if value is not None and getattr(words, name) == getattr(plain, name)
    }
    chosen = words.engine if words.engine != plain.engine else engine
    return replace(replace(words, model=model, engine=chosen), **changes), note


def model_reference(name: str) -> str:
    """The model that a log names by a Hub id or by a folder, as kvplan knows it.

    Folders carry the Hub id in many spellings (``org__name``, ``org--name``, ``models--org--name/snapshots/...``).
    """
    pieces = [piece for piece in name.split("/") if piece]
    spellings = [name, *pieces[::-1], "/".join(pieces[-2:])]
    for spelling in spellings:
        plain = spelling.removeprefix("models--")
        for candidate in (plain, plain.replace("__", "/", 1), plain.replace("--", "/", 1)):
            if find_spec(candidate) is not None:
                return candidate
    return name


def _device(start: MeasuredStart, words: FitWords) -> dict[str, str | None]:
    """The device that the log names, else the known one with as much memory, else one of that memory."""
    if words.gpu is not None or start.accelerator is not None or start.total_bytes is None:
        return {"gpu": start.accelerator}
    total = start.total_bytes
    known = [device for device in packaged_accelerators() if device.vendor == "nvidia"]
    nearest = min(known, key=lambda device: abs(device.memory_bytes - total))
    if abs(nearest.memory_bytes - total) * MEMORY_TOLERANCE <= total:
        return {"gpu": nearest.name}
    return {"gpu_memory": str(total)}


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
    budget = result.fullest
    figures: dict[str, int | float | None] = {f"{name}_bytes": getattr(budget, name).size_bytes for name in MEASURED}
    capacity = result.capacity
    figures["capacity_tokens"] = capacity.capacity_tokens if capacity else None
    figures["max_concurrency"] = capacity.max_concurrency if capacity else None
    return figures
