"""What every engine that is started here asks first: one rank, a device in kvplan's words, and room on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.core.accelerator import Accelerator
from kvplan.core.errors import DoesNotFitError, UnsupportedError
from kvplan.core.request import SizeRequest
from kvplan.core.units import format_bytes
from kvplan.runtime.verify.device import margin_bytes


def refuse_ranks(engine: str, request: SizeRequest) -> None:
    """Raise UnsupportedError for several ranks and for draft layers, which are not started here."""
    parallel = request.parallel
    if (parallel.tp, parallel.pp, parallel.dp, parallel.dcp) != (1, 1, 1, 1):
        raise UnsupportedError(f"{engine} is started on one rank here", "leave --tp, --pp, --dp and --dcp out")
    if request.include_draft or request.settings.num_speculative_tokens:
        raise UnsupportedError(f"{engine} is started without draft layers here", "leave --mtp out")


def accelerator_of(device: Mapping[str, Any]) -> Accelerator:
    """The GPU that a script describes."""
    major, minor = device["compute_capability"]
    return Accelerator(
        name=device["name"],
        vendor=device["vendor"],
        memory_bytes=device["memory_bytes"],
        compute_capability=(major, minor),
    )


def usable_bytes(free_bytes: int) -> int:
    """What of the free memory a cache may take."""
    return max(0, free_bytes - margin_bytes(free_bytes))


def refuse_size(what: str, needed_bytes: int, free_bytes: int, context_tokens: int) -> None:
    """Raise DoesNotFitError, with about the context that would fit, where ``what`` leaves the device no margin."""
    usable = usable_bytes(free_bytes)
    if needed_bytes > usable:
        raise DoesNotFitError(
            f"{what} needs {format_bytes(needed_bytes)} of cache, and {format_bytes(usable)} are free",
            f"a context of about {context_tokens * usable // needed_bytes} tokens would fit: lower --ctx",
        )
