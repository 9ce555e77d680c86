"""SGLang: ``python -m sglang.launch_server``, and the same options for its ``Engine`` in Python.

Option names are those of 0.5.23's ``ServerArgs`` (``arg_groups/fields``), whose flags spell them with dashes.
``--hicache-size`` is whole gigabytes of 10^9 bytes for each rank (``mem_cache/pool_host/base.py``).
"""

from __future__ import annotations

from typing import Any

from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import (
    above_one,
    cache_word,
    flag_words,
    python_call,
    ranks_of,
    ratio_value,
    refuse_missing,
)
from kvplan.core.units import cdiv

TARGET = "sglang"
ENGINES = ("sglang",)

_GB = 10**9
_MODELS_OWN = ("fp16", "float16")
"""The dtype of an fp16 model, which SGLang has no word for and ``auto`` stores."""

_KNOWN = (
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "memory_utilization", "block_tokens"),
    *("attention_backend", "prefix_caching", "expert_parallel", "eager", "text_only", "host_cache_bytes"),
    *("tp", "pp", "dp", "dcp"),
)


def launch(plan: LaunchPlan) -> Launch:
    """``python -m sglang.launch_server`` with the flags that are set, and ``sglang.Engine`` with the same.

    Raises UnsupportedError where the plan asks for what SGLang has no option for.
    """
    refuse_missing("SGLang", plan, _KNOWN)
    options = {"model_path": plan.model, **_options(plan)}
    return Launch(
        target=TARGET,
        argv=("python", "-m", "sglang.launch_server", *flag_words(options)),
        python=f"import sglang\n\n{_guarded(python_call('sglang.Engine', options))}",
    )


def _guarded(call: str) -> str:
    """The engine starts processes that import this file again, so it must be started as the main program alone."""
    lines = f"engine = {call}".splitlines()
    return 'if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in lines)


def _options(plan: LaunchPlan) -> dict[str, Any]:
    """Fields of ``ServerArgs``. Experts are spread over all tensor-parallel ranks; prefix caching is the default."""
    parallel, word = plan.parallel, cache_word(plan)
    host = cdiv(plan.host_cache_bytes, ranks_of(parallel) * _GB) or None
    return {
        "kv_cache_dtype": None if word in _MODELS_OWN else word,
        "tp_size": above_one(parallel.tp),
        "pp_size": above_one(parallel.pp),
        "dp_size": above_one(parallel.dp),
        "dcp_size": above_one(parallel.dcp),
        "ep_size": above_one(parallel.tp) if plan.expert_parallel else None,
        "context_length": plan.max_model_len,
        "max_running_requests": plan.max_num_seqs,
        "chunked_prefill_size": plan.max_num_batched_tokens,
        "mem_fraction_static": ratio_value(plan.memory_utilization),
        "page_size": plan.block_tokens,
        "attention_backend": plan.attention_backend.lower() if plan.attention_backend else None,
        "disable_radix_cache": True if plan.prefix_caching is False else None,
        "disable_prefill_cuda_graph": plan.eager or None,
        "disable_decode_cuda_graph": plan.eager or None,
        "language_model_only": plan.text_only or None,
        "enable_hierarchical_cache": True if host else None,
        "hicache_size": host,
    }
