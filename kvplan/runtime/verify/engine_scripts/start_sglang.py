"""Starts SGLang on a skeleton with dummy weights; what it says of its pools is in its log.

Runs under the interpreter that has SGLang and knows no kvplan: ``python start_sglang.py QUESTION.json ANSWER.json``. A
question without a ``model`` folder asks for version and device alone; ``arguments`` are those of ``sglang.Engine``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any


def version() -> str | None:
    """The release; None where SGLang is not installed."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def device() -> dict[str, Any] | None:
    """The first GPU in plain words; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": torch.cuda.mem_get_info(0)[1],
        "free_bytes": torch.cuda.mem_get_info(0)[0],
        "compute_capability": [properties.major, properties.minor],
        "vendor": "amd" if torch.version.hip else "nvidia",
    }


def start(question: dict[str, Any]) -> dict[str, Any]:
    """Start the engine; its schedulers log what they allocate."""
    import sglang

    sglang.Engine(
        model_path=question["model"],
        load_format="dummy",
        skip_tokenizer_init=True,
        disable_cuda_graph=True,
        log_level="info",
        **question["arguments"],
    )
    return {"started": True}


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
