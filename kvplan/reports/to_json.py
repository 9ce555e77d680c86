"""The JSON contract: one envelope for success and failure, and the keys of each command's result."""

from __future__ import annotations

import json
from typing import Any

from kvplan import __version__
from kvplan.core.errors import KvplanError
from kvplan.core.policy import describe_policy
from kvplan.core.request import KindAllocation, SizeResult
from kvplan.planning.compare import Refusal

SCHEMA = 1


def render_success(command: str, result: dict[str, Any], warnings: tuple[str, ...] = ()) -> str:
    """The envelope of an answer."""
    return _render(_envelope(command, "ok", result, warnings, None))


def render_failure(command: str, error: KvplanError) -> str:
    """The envelope of an error."""
    problem = {"code": error.code, "message": error.message, "hint": error.hint}
    return _render(_envelope(command, "error", None, (), problem))


def size_fields(result: SizeResult) -> dict[str, Any]:
    """The ``result`` of ``kvplan size`` for one request; a key may be added, never renamed."""
    architecture = result.model.architecture
    parameters = architecture.parameters
    return {
        "model": {
            "name": result.model.name,
            "source": result.model.source,
            "num_layers": architecture.num_layers,
            "num_parameters": parameters.total if parameters else result.model.weights.exact_parameters,
        },
        "request": _request_fields(result),
        "textbook_bytes": result.textbook_bytes,
        "geometry_bytes": result.geometry_bytes,
        "uncompressed_bytes": result.uncompressed_bytes,
        "allocated_bytes": result.allocated_bytes,
        "allocated_bytes_per_rank": list(result.allocated_bytes_per_rank),
        "allocated_bytes_per_sequence": result.allocated_bytes_per_sequence,
        "bytes_per_token": result.bytes_per_token,
        "fixed_bytes_per_sequence": result.fixed_bytes_per_sequence,
        "window_tokens": list(result.window_tokens),
        "bytes_per_block": result.bytes_per_block,
        "blocks_per_sequence": result.blocks_per_sequence,
        "num_blocks": result.allocation.num_blocks,
        "capacity_tokens": result.allocation.capacity_tokens,
        "max_concurrency": result.allocation.max_concurrency,
        "engine_log_line": result.allocation.log_line,
        "unassigned_bytes": result.unassigned_bytes,
        "weights_bytes": result.weights_bytes,
        "weight_format": result.weight_format,
        "weights_certainty": result.weights_certainty,
        "kv_share_ratio": result.kv_share_ratio,
        "nominal_saving_ratio": result.nominal_saving_ratio,
        "saving_ratio": result.saving_ratio,
        "stage_layers": list(result.stage_layers),
        "certainty": result.certainty,
        "layers": [_layer_fields(layer) for layer in result.layers],
    }


def refusal_fields(refusal: Refusal) -> dict[str, Any]:
    """An engine that cannot do what is asked."""
    return {
        "model": refusal.model,
        "engine": refusal.engine,
        "engine_version": refusal.version,
        "message": refusal.message,
        "hint": refusal.hint,
    }


def _request_fields(result: SizeResult) -> dict[str, Any]:
    request = result.request
    parallel = request.parallel
    return {
        "context_tokens": request.context_tokens,
        "concurrency": request.concurrency,
        "encoder_tokens": request.encoder_tokens or None,
        "kv_cache_dtype": request.choice.kv_format.name,
        "policy": describe_policy(request.choice.policy),
        "engine": result.engine,
        "engine_version": result.engine_version,
        "tp": parallel.tp,
        "pp": parallel.pp,
        "dp": parallel.dp,
        "dcp": parallel.dcp,
        "mtp": request.include_draft,
        "max_num_batched_tokens": result.allocation.max_num_batched_tokens,
        "block_tokens": result.allocation.block_tokens,
        "max_model_len": request.settings.max_model_len or request.context_tokens,
        "kv_memory_bytes": request.settings.kv_memory_bytes,
        "accelerator": request.settings.accelerator.name if request.settings.accelerator else None,
    }


def _layer_fields(layer: KindAllocation) -> dict[str, Any]:
    return {
        "kind": layer.kind,
        "count": layer.count,
        "num_kv_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
        "v_head_dim": layer.v_head_dim,
        "window_tokens": layer.window_tokens,
        "cache_format": layer.cache_format,
        "resident_tokens": layer.resident_tokens,
        "kept_tokens": layer.kept_tokens,
        "allocated_tokens": layer.allocated_tokens,
        "bytes_per_token": layer.bytes_per_token,
        "state_bytes": layer.state_bytes,
        "geometry_bytes": layer.geometry_bytes,
        "allocated_bytes": layer.allocated_bytes,
    }


def _envelope(
    command: str,
    status: str,
    result: dict[str, Any] | None,
    warnings: tuple[str, ...],
    error: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "kvplan": __version__,
        "schema": SCHEMA,
        "command": command,
        "status": status,
        "result": result,
        "warnings": list(warnings),
        "error": error,
    }


def _render(envelope: dict[str, Any]) -> str:
    return json.dumps(envelope, indent=2, default=str)  # dates of a spec
