"""vLLM: ``vllm serve``, and the same options for its ``LLM`` in Python.

Option names are those of ``engine/arg_utils.py``, alike in 0.25, 0.32 and 0.33, whose fields carry the same names with
underscores. ``--kv-offloading-size`` is GiB, summed over the ranks of a replica (``config/cache.py``).
"""

from __future__ import annotations

from typing import Any

from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import (
    above_one,
    cache_word,
    flag_words,
    host_cache_gib,
    python_call,
    ratio_value,
    refuse_missing,
)

TARGET = "vllm"
ENGINES = ("vllm",)

_WORDS = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16"}
"""vLLM's words for kvplan's names."""

_KNOWN = (
    *("native_layers", "native_windows", "max_model_len", "max_num_seqs", "max_num_batched_tokens"),
    *("memory_utilization", "block_tokens", "attention_backend", "prefix_caching", "expert_parallel", "eager"),
    *("text_only", "host_cache_bytes", "tp", "pp", "dp", "dcp"),
)


def launch(plan: LaunchPlan) -> Launch:
    """``vllm serve MODEL`` with the flags that are set; no Python for several replicas, which ``LLM`` does not start.

    Raises UnsupportedError where the plan asks for what vLLM has no option for.
    """
    refuse_missing("vLLM", plan, _KNOWN)
    options = _options(plan)
    replicated = plan.parallel.dp > 1
    notes = ("LLM(...) starts no data-parallel replicas: serve them",) if replicated else ()
    call = python_call("LLM", {"model": plan.model, **options})
    return Launch(
        target=TARGET,
        argv=("vllm", "serve", plan.model, *flag_words(options)),
        python=None if replicated else f"from vllm import LLM\n\nllm = {call}\n",
        notes=notes,
    )


def _options(plan: LaunchPlan) -> dict[str, Any]:
    """Fields of ``EngineArgs``; their flags are spelled with dashes."""
    parallel, word = plan.parallel, (cache_word(plan) or "").replace("-", "_")
    skipped = [*map(str, plan.native_layers), *(["sliding_window"] if plan.native_windows else [])]
    return {
        "kv_cache_dtype": _WORDS.get(word, word) if word else None,
        "kv_cache_dtype_skip_layers": skipped or None,
        "tensor_parallel_size": above_one(parallel.tp),
        "pipeline_parallel_size": above_one(parallel.pp),
        "data_parallel_size": above_one(parallel.dp),
        "decode_context_parallel_size": above_one(parallel.dcp),
        "enable_expert_parallel": plan.expert_parallel or None,
        "max_model_len": plan.max_model_len,
        "max_num_seqs": plan.max_num_seqs,
        "max_num_batched_tokens": plan.max_num_batched_tokens,
        "gpu_memory_utilization": ratio_value(plan.memory_utilization),
        "block_size": plan.block_tokens,
        "attention_backend": plan.attention_backend.upper() if plan.attention_backend else None,
        "enable_prefix_caching": plan.prefix_caching,
        "enforce_eager": plan.eager or None,
        "language_model_only": plan.text_only or None,
        "kv_offloading_size": host_cache_gib(plan.host_cache_bytes, parallel.dp),
    }
