"""Starts SGLang on a skeleton with dummy weights and writes down what its pools take; its log says it rounded.

Runs under the interpreter that has SGLang and knows no kvplan: ``python start_sglang.py QUESTION.json ANSWER.json``. A
question without a ``model`` folder asks for version and device alone; ``arguments`` are those of ``sglang.Engine``.
SGLang runs its scheduler, which owns the pools, in a process of its own, and that process imports this file again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

POOLS = "kvplan_pools"
"""The key of what :func:`pool_bytes` found, among what a scheduler says of itself when it is ready."""


def version() -> str | None:
    """The release; None where SGLang is not installed."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def device() -> dict[str, Any]:
    """The device that SGLang would run on, in plain words."""
    import torch

    if not torch.cuda.is_available():
        return {"kind": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "kind": "cuda",
        "name": properties.name,
        "memory_bytes": torch.cuda.mem_get_info(0)[1],
        "free_bytes": torch.cuda.mem_get_info(0)[0],
        "compute_capability": [properties.major, properties.minor],
        "vendor": "amd" if torch.version.hip else "nvidia",
    }


def tensor_bytes(root: Any, skipped: set[int]) -> int:
    """Bytes of the distinct storages that an object of SGLang holds.

    Tables of 64-bit integers (pointers, and which row of one pool is which of another) are not cache.
    """
    import torch

    storages, seen, left = {}, set(skipped), [root]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.dtype not in (torch.int64, torch.uint64):
                storage = value.untyped_storage()
                storages[storage._cdata] = storage.nbytes()  # an address tells no meta tensors apart
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, (list, tuple, set)):
            left += value
        elif type(value).__module__.startswith("sglang.") and hasattr(value, "__dict__"):
            left += vars(value).values()
    return sum(storages.values())


def pool_bytes(scheduler: Any) -> dict[str, int] | None:
    """What a scheduler's pools of rows and of states hold; None where they are not those of the releases known here."""
    try:
        requests = scheduler.req_to_token_pool
        rows = scheduler.token_to_kv_pool_allocator.get_kvcache()
        if getattr(rows, "post_capture_active", False):  # addresses are reserved then, not memory
            return None
        states = getattr(requests, "mamba_pool", None)
        held = 0 if states is None else tensor_bytes(states.mamba_cache, set())
        return {"rows": tensor_bytes(rows, {id(requests), id(states)}), "states": held}
    except Exception:
        return None


def run_scheduler(*arguments: Any, **options: Any) -> None:
    """SGLang's scheduler process, whose first message also tells what its pools hold."""
    from sglang.srt.managers import scheduler

    class Telling(scheduler.Scheduler):  # type: ignore[misc]
        def get_init_info(self) -> dict[str, Any]:
            return {**super().get_init_info(), POOLS: pool_bytes(self)}

    scheduler.Scheduler = Telling
    scheduler.run_scheduler_process(*arguments, **options)


def start(question: dict[str, Any]) -> dict[str, Any]:
    """Start the engine; its scheduler tells what it allocates, and logs it."""
    from sglang.srt.entrypoints.engine import Engine

    class Started(Engine):  # type: ignore[misc]
        run_scheduler_process_func = staticmethod(run_scheduler)

    engine = Started(
        model_path=question["model"],
        load_format="dummy",
        skip_tokenizer_init=True,
        disable_cuda_graph=True,
        log_level="info",
        **question["arguments"],
    )
    told = getattr(getattr(engine, "_scheduler_init_result", None), "scheduler_infos", None) or [{}]
    return {"started": True, "pools": told[0].get(POOLS)}


def main() -> None:
    """Read the question, write the answer."""
    question = json.loads(Path(sys.argv[1]).read_text())
    answer: dict[str, Any] = {"version": version()}
    if answer["version"]:
        answer["device"] = device()
        if "model" in question:
            try:
                answer |= start(question)
            except (Exception, SystemExit) as error:
                answer["refused"] = f"{type(error).__name__}: {error}"
    Path(sys.argv[2]).write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
