"""The ``result`` of ``kvplan fit`` as the JSON contract has it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kvplan.core.budget import BudgetLine, RankBudget
from kvplan.core.fit import FitResult
from kvplan.planning.workload_fit import WorkloadFit
from kvplan.reports.to_csv import render_csv

BUDGET_LINES = ("weights", "activation", "cuda_graph", "non_torch", "kv_cache")


def fit_fields(result: FitResult) -> dict[str, Any]:
    """The ``result`` of one placement; a key may be added, never renamed."""
    request, size = result.request, result.request.size
    parallel, capacity = size.parallel, result.capacity
    ranks = [budget for budget in result.budgets for _ in range(parallel.tp)] * parallel.dp
    return {
        "fits": result.fits,
        "starts": result.starts,
        "refusal": result.refusal,
        "model": {"name": result.model.name, "source": result.model.source},
        "accelerator": {
            "name": request.accelerator.name,
            "count": request.num_devices,
            "memory_bytes": request.accelerator.memory_bytes,
        },
        "placement": {
            "tp": parallel.tp,
            "pp": parallel.pp,
            "dp": parallel.dp,
            "dcp": parallel.dcp,
            "ep": parallel.tp * parallel.dp if request.expert_parallel else 1,
        },
        "request": {
            "context_tokens": size.context_tokens,
            "concurrency": size.concurrency,
            "kv_cache_dtype": size.choice.kv_format.name,
            "engine": result.engine,
            "engine_version": result.engine_version,
            "max_model_len": size.settings.max_model_len or size.context_tokens,
            "max_num_batched_tokens": result.max_num_batched_tokens,
            "max_num_seqs": result.max_num_seqs,
            "weight_format": request.weight_format.name,
        },
        "budget_per_rank": [_budget_fields(budget) for budget in ranks],
        "certainty": _certainty(result.budgets[0]),
        "num_blocks": capacity.num_blocks if capacity else None,
        "capacity_tokens": capacity.capacity_tokens if capacity else None,
        "max_concurrency": capacity.max_concurrency if capacity else None,
        "max_concurrency_at_context": result.max_concurrency,
        "max_context_tokens": result.max_context_tokens,
        "kv_bytes_needed": result.kv_bytes_needed,
        "engine_log_line": capacity.log_line if capacity else None,
    }


def _budget_fields(budget: RankBudget) -> dict[str, int]:
    lines = {f"{name}_bytes": getattr(budget, name).size_bytes for name in BUDGET_LINES}
    errors = {f"{name}_error_bytes": getattr(budget, name).error_bytes for name in BUDGET_LINES}
    return {
        "requested_bytes": budget.requested_bytes,
        **lines,
        "unused_bytes": budget.unused_bytes,
        "missing_bytes": budget.missing_bytes,
        **errors,
    }


def _certainty(budget: RankBudget) -> dict[str, str]:
    found: dict[str, BudgetLine] = {name: getattr(budget, name) for name in BUDGET_LINES}
    return {f"{name}_bytes": line.certainty for name, line in found.items()}


def fit_csv(result: FitResult) -> str:
    """One line for each rank's stage: exact bytes, the names of the JSON contract."""
    fields = fit_fields(result)
    shared = {
        "model": fields["model"]["name"],
        "accelerator": fields["accelerator"]["name"],
        "count": fields["accelerator"]["count"],
        **fields["placement"],
        **fields["request"],
        **{name: fields[name] for name in ("fits", "num_blocks", "capacity_tokens", "max_concurrency")},
        **{name: fields[name] for name in ("max_context_tokens", "kv_bytes_needed")},
    }
    rows = [{**shared, "rank": index, **rank} for index, rank in enumerate(fields["budget_per_rank"])]
    return render_csv(list(rows[0]), [list(row.values()) for row in rows])


def workload_fields(fit: WorkloadFit) -> dict[str, Any]:
    """The replay of a workload."""
    return {
        **asdict(fit.report),
        "short_of_memory": fit.report.short_of_memory,
        "source": fit.workload.source,
        "ample_blocks": fit.ample_blocks,
        "ample_kv_bytes": fit.ample_kv_bytes,
        "ample_devices": fit.ample_hardware.num_devices if fit.ample_hardware else None,
        "prefill_tokens_per_second": fit.speed.prefill_tokens_per_second,
        "decode_seconds_per_token": fit.speed.decode_seconds_per_token,
        "speed_source": fit.speed_source,
    }
