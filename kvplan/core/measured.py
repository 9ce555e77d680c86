"""What an engine said of its own memory when it started, and where it refused to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from fractions import Fraction

from kvplan.core.frozen import dataclass

FIGURES = (
    "total_bytes",
    "free_bytes",
    "requested_bytes",
    "weights_bytes",
    "activation_bytes",
    "cuda_graph_estimate_bytes",
    "cuda_graph_bytes",
    "non_torch_bytes",
    "kv_cache_bytes",
)
"""The fields of MeasuredStart that are amounts of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartArguments:
    """The arguments that decide sizes, as the engine resolved or was given them; None where the log is silent.

    ``max_seq_len``              longest request (``context_len`` of SGLang, ``n_ctx_seq`` of llama.cpp)
    ``kv_cache_dtype``           in the engine's own word; ``K/V`` where the two differ
    ``gpu_memory_utilization``   of the device's memory; ``mem_fraction_static`` of SGLang
    ``max_num_batched_tokens``   of one step; ``chunked_prefill_size`` of SGLang, ``n_ubatch`` of llama.cpp
    ``max_num_seqs``             running at once; ``max_running_requests`` of SGLang, ``n_seq_max`` of llama.cpp
    """

    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    dcp: int | None = None
    max_seq_len: int | None = None
    kv_cache_dtype: str | None = None
    gpu_memory_utilization: Fraction | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    enforce_eager: bool | None = None
    prefix_caching: bool | None = None
    block_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedStart:
    """Why an engine did not start, in its own words.

    ``kind``  ``kv_cache`` (one longest request does not fit), ``no_cache_memory`` (nothing is left for a cache),
              ``free_memory`` (others hold the device's memory) or ``out_of_memory`` (an allocation failed)

    ``needed_bytes`` and ``available_bytes`` are of the cache (of the allocation, for ``out_of_memory``), rounded as
    ``tolerance_bytes`` says.
    """

    kind: str
    message: str
    needed_bytes: int | None = None
    available_bytes: int | None = None
    max_seq_len: int | None = None
    estimated_max_model_len: int | None = None
    tolerance_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStart:
    """One start of an engine; every figure is the first rank's, and None where the log is silent.

    ``model``                      as the log names it: a Hub id, a folder or a file
    ``accelerator``                the device's name, where the log has it
    ``free_bytes``                 before the engine took anything
    ``requested_bytes``            what the engine meant to use
    ``weights_bytes``              of one rank (all devices of a llama.cpp process together)
    ``cuda_graph_estimate_bytes``  set aside before the cache was sized; ``cuda_graph_bytes`` was really taken after
    ``kv_cache_bytes``             the smallest of all ranks; below zero where nothing was left
    ``capacity_tokens``, ``max_concurrency``  as the engine's own words define them
    ``tolerance_bytes``            how far each figure may be off by its rounding, by the field's name
    ``notes``                      what the reader must know of how the figures were read
    """

    engine: str
    version: str | None = None
    model: str | None = None
    accelerator: str | None = None
    arguments: StartArguments = field(default_factory=StartArguments)
    total_bytes: int | None = None
    free_bytes: int | None = None
    requested_bytes: int | None = None
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    cuda_graph_estimate_bytes: int | None = None
    cuda_graph_bytes: int | None = None
    non_torch_bytes: int | None = None
    kv_cache_bytes: int | None = None
    num_blocks: int | None = None
    capacity_tokens: int | None = None
    max_concurrency: float | None = None
    error: RefusedStart | None = None
    tolerance_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()
