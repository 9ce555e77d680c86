"""TensorRT-LLM's PyTorch backend: ``trtllm-serve`` with a YAML file, and the same for its ``LLM`` in Python.

Flags and the fields of ``KvCacheConfig`` are those of the documentation of 1.4.0rc1 (``commands/trtllm-serve``,
``llm-api/reference``). The memory fraction has a flag, too; it is written into the file, beside the other fields of
``kv_cache_config``, so that nothing hangs on which of the two wins.
"""

from __future__ import annotations

from typing import Any

from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import (
    Code,
    above_one,
    cache_word,
    flag_words,
    python_call,
    ranks_of,
    ratio_value,
    refuse_missing,
    set_options,
    to_yaml,
)

TARGET = "trtllm"
ENGINES = ("trtllm",)

FILE = "kv_cache.yaml"
_KNOWN = (
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "memory_utilization", "block_tokens"),
    *("attention_backend", "prefix_caching", "expert_parallel", "eager", "host_cache_bytes", "tp", "pp"),
)


def launch(plan: LaunchPlan) -> Launch:
    """``trtllm-serve MODEL`` with its file, where anything is written into it.

    Raises UnsupportedError where the plan asks for what TensorRT-LLM has no option for.
    """
    refuse_missing("TensorRT-LLM", plan, _KNOWN)
    cache, settings = set_options(_cache_options(plan)), _settings(plan)
    inside = {**({"kv_cache_config": cache} if cache else {}), **settings}
    flags = flag_words(_flags(plan), dashes=False)
    named = ("--extra_llm_api_options", FILE) if inside else ()
    return Launch(
        target=TARGET,
        argv=("trtllm-serve", plan.model, *flags, *named),
        files={FILE: to_yaml(inside)} if inside else {},
        python=_python(plan, cache, settings),
    )


def _flags(plan: LaunchPlan) -> dict[str, Any]:
    """Options of ``trtllm-serve``, which are spelled with underscores."""
    return {
        "tp_size": above_one(plan.parallel.tp),
        "pp_size": above_one(plan.parallel.pp),
        "ep_size": above_one(plan.parallel.tp) if plan.expert_parallel else None,
        "max_batch_size": plan.max_num_seqs,
        "max_num_tokens": plan.max_num_batched_tokens,
        "max_seq_len": plan.max_model_len,
    }


def _cache_options(plan: LaunchPlan) -> dict[str, Any]:
    """Fields of ``KvCacheConfig``; host memory is that of one rank."""
    return {
        "dtype": cache_word(plan),
        "free_gpu_memory_fraction": ratio_value(plan.memory_utilization),
        "tokens_per_block": plan.block_tokens,
        "enable_block_reuse": plan.prefix_caching,
        "host_cache_size": plan.host_cache_bytes // ranks_of(plan.parallel) or None,
    }


def _settings(plan: LaunchPlan) -> dict[str, Any]:
    """Fields of ``LLM`` besides; a ``cuda_graph_config`` of null is eager mode."""
    backend = {"attn_backend": plan.attention_backend.upper()} if plan.attention_backend else {}
    return {**backend, **({"cuda_graph_config": None} if plan.eager else {})}


def _python(plan: LaunchPlan, cache: dict[str, Any], settings: dict[str, Any]) -> str:
    """The names of ``LLM``'s arguments are longer than those of the flags."""
    flags = _flags(plan)
    names = {
        "tp_size": "tensor_parallel_size",
        "pp_size": "pipeline_parallel_size",
        "ep_size": "moe_expert_parallel_size",
    }
    arguments: dict[str, Any] = {"model": plan.model, **{names.get(name, name): flags[name] for name in flags}}
    if cache:
        arguments["kv_cache_config"] = Code(python_call("KvCacheConfig", cache))
    arguments |= {name: Code("None") if value is None else value for name, value in settings.items()}
    imports = "from tensorrt_llm import LLM\n" + ("from tensorrt_llm.llmapi import KvCacheConfig\n" if cache else "")
    return f"{imports}\nllm = {python_call('LLM', arguments)}\n"
