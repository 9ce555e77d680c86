"""The rows of ``kvplan models list``, as plain text cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.core.units import format_bytes, format_count, format_tokens

MODEL_HEADER = ("model", "parameters", "layers", "context", "per token", "state")


def model_row(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """One model: what is unknown is left blank."""
    return (
        fields["name"],
        format_count(fields["num_parameters"]) if fields["num_parameters"] else "",
        str(fields["num_layers"]),
        format_tokens(fields["max_context_tokens"]) if fields["max_context_tokens"] else "",
        format_bytes(fields["bytes_per_token"]) if fields["bytes_per_token"] else "",
        format_bytes(fields["fixed_bytes"]) if fields["fixed_bytes"] else "",
    )
