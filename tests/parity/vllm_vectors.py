"""Write the jobs for vllm_planner.py, and pack its rows into the vector file that the tests read.

    python tests/parity/vllm_vectors.py jobs --configs DIR --out jobs.jsonl
    python tests/parity/vllm_planner.py --configs DIR --jobs jobs.jsonl --out rows.jsonl
    python tests/parity/vllm_vectors.py pack --rows rows.jsonl --out tests/vectors/vllm_0.32.json

Rows that say ``failed`` (the stand-in device could not carry the model's constructor) prove nothing: their models are
only named. Refusals and shortage of memory are vLLM's own words and stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: models that between them hold every kind of layer, each asked under every entry of VARIATIONS.
VARIED = """
    meta-llama__Llama-3.1-8B Qwen__Qwen3-8B mistralai__Mistral-7B-Instruct-v0.1 openai__gpt-oss-20b
    google__gemma-3-27b-it google__gemma-4-26B-A4B google__gemma-4-E4B-it unsloth__Llama-4-Scout-17B-16E-Instruct
    deepseek-ai__DeepSeek-R1 deepseek-ai__DeepSeek-V2-Lite deepseek-ai__DeepSeek-V3.2 deepseek-ai__DeepSeek-V4-Flash
    zai-org__GLM-5.2 Qwen__Qwen3-Next-80B-A3B-Instruct Qwen__Qwen3.5-27B nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16
    nvidia__Nemotron-H-56B-Base-8K ai21labs__Jamba-v0.1 tiiuae__falcon-mamba-7b ibm-granite__granite-4.0-h-micro-base
    LiquidAI__LFM2-8B-A1B moonshotai__Kimi-K3 MiniMaxAI__MiniMax-M2.1 MiniMaxAI__MiniMax-M3
    nvidia__Llama-3_3-Nemotron-Super-49B-v1 openai__whisper-large-v3 tiiuae__falcon-7b unsloth__gemma-2-9b-it
    XiaomiMiMo__MiMo-V2-Flash mlx-community__c4ai-command-r7b-12-2024-8bit microsoft__phi-4
""".split()

VARIATIONS: list[dict[str, Any]] = [
    *({"tp": size} for size in (2, 4, 8)),
    *({"kv_cache_dtype": name} for name in ("fp8", "int8_per_token_head", "int4_per_token_head", "turboquant_4bit_nc")),
    {"prefix_caching": False},
    *({"max_num_batched_tokens": tokens} for tokens in (2048, 16384)),
    *({"max_model_len": tokens} for tokens in (4096, 32768)),
    *({"block_size": tokens} for tokens in (32, 64, 128)),
    {"kv_memory_bytes": 80 << 30},
    {"tp": 2, "kv_cache_dtype": "fp8"},
    {"pp": 2},
    {"flashinfer": True},
    {"flashinfer": True, "kv_cache_dtype": "nvfp4"},
    {"compute_capability": "8.0"},
    {"compute_capability": "8.0", "kv_cache_dtype": "fp8"},
    {"compute_capability": "8.0", "flashinfer": True},
    {"compute_capability": "8.0", "flashinfer": True, "kv_cache_dtype": "fp8"},
    {"compute_capability": "8.9"},
    {"compute_capability": "8.9", "flashinfer": True, "kv_cache_dtype": "fp8"},
    {"compute_capability": "10.0"},
    {"compute_capability": "10.0", "flashinfer": True},
    {"compute_capability": "10.0", "flashinfer": True, "kv_cache_dtype": "fp8"},
    {"compute_capability": "10.0", "flashinfer": True, "kv_cache_dtype": "nvfp4"},
    {"compute_capability": "10.0", "flashinfer": True, "tp": 8},
]

DENSE, SINKS, WINDOWS, MLA, HYBRID = (
    "meta-llama__Llama-3.1-8B openai__gpt-oss-20b google__gemma-3-27b-it deepseek-ai__DeepSeek-R1"
    " Qwen__Qwen3-Next-80B-A3B-Instruct"
).split()
SPARSE = ["deepseek-ai__DeepSeek-V3.2", "zai-org__GLM-5.2", "deepseek-ai__DeepSeek-V4-Flash"]
STATES = [
    HYBRID,
    *(
        "nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 ai21labs__Jamba-v0.1 moonshotai__Kimi-K3 LiquidAI__LFM2-8B-A1B"
        " Qwen__Qwen3.5-27B tiiuae__falcon-mamba-7b ibm-granite__granite-4.0-h-micro-base"
    ).split(),
]

#: options that only some kinds of model react to: (models, options).
SPECIAL: list[tuple[list[str], list[dict[str, Any]]]] = [
    (
        [DENSE, WINDOWS, MLA, HYBRID],
        [
            {"kv_cache_dtype": name}
            for name in (
                "float16 bfloat16 fp8_e5m2 fp8_per_token_head turboquant_k8v4 turboquant_k3v4_nc turboquant_3bit_nc"
            ).split()
        ],
    ),
    (
        [MLA, *SPARSE],
        [
            {"tp": 8, "dcp": 8},
            {"tp": 8, "dcp": 2},
            {"kv_cache_dtype": "fp8_ds_mla"},
            {"compute_capability": "10.0", "flashinfer": True, "kv_cache_dtype": "nvfp4_ds_mla"},
            {"compute_capability": "12.0", "flashinfer": True},
        ],
    ),
    ([DENSE, SINKS, HYBRID, "moonshotai__Kimi-K3"], [{"tp": 8, "dcp": 2}, {"tp": 16, "dcp": 2}, {"tp": 16}]),
    (
        STATES,
        [
            {"mamba_ssm_cache_dtype": "float32"},
            {"mamba_ssm_cache_dtype": "bfloat16"},
            {"kv_cache_dtype": "fp8", "prefix_caching": False},
            {"block_size": 1024},
            {"pp": 4},
        ],
    ),
    (
        [
            *(MLA, HYBRID, *SPARSE, "Qwen__Qwen3.5-27B", "XiaomiMiMo__MiMo-V2-Flash", "zai-org__GLM-4.5-Air"),
            "nvidia__NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
        ],
        [{"speculative": {"method": "mtp", "num_speculative_tokens": tokens}} for tokens in (1, 3)],
    ),
    (
        [DENSE, SINKS, WINDOWS, MLA, HYBRID],
        [
            {"pp": 4},
            {"pp": 2, "tp": 2},
            {"kv_memory_bytes": 1 << 30},
            {"dtype": "float16"},
            {"max_model_len": 1000, "max_num_batched_tokens": 1000},
            {"block_size": 16},
            {"block_size": 256},
            {"compute_capability": "12.0", "flashinfer": True},
        ],
    ),
]


HOW = (
    "tests/parity/vllm_planner.py: vLLM's own model classes on the meta device and its own planner, on a stand-in CUDA "
    "device. Options that a row does not name are the script's defaults: compute capability 9.0, FlashInfer not "
    "installed, tp 1, 8192 batched tokens, 40 GiB, the model's maximum length but at most 131072. A row with options "
    "leaves out model_class, layers, groups and fields of resolved that equal those of the model's row without options."
)


def jobs(names: list[str]) -> Iterator[dict[str, Any]]:
    """Every job once: all models plainly, the varied ones under each variation, then the special pairs."""
    seen = set()
    wanted = [(name, {}) for name in names]
    wanted += [(name, options) for options in VARIATIONS for name in VARIED]
    wanted += [(name, options) for models, several in SPECIAL for name in models for options in several]
    for name, options in wanted:
        key = json.dumps([name, options], sort_keys=True)
        if name in names and key not in seen:
            seen.add(key)
            yield {"config": name, "options": options}


def _packed(row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """A row without its stamp; ``resolved`` of a varied row keeps what differs from the same model asked plainly."""
    row = {name: value for name, value in row.items() if name not in ("engine", "date")}
    if row["options"] and "resolved" in row and "resolved" in plain:
        row["resolved"] = {name: value for name, value in row["resolved"].items() if plain["resolved"][name] != value}
        for name in ("model_class", "layers", "groups"):
            if row.get(name) == plain.get(name):
                del row[name]
    if "refused" in row:
        row["refused"] = row["refused"].split(" Supported architectures:")[0][:300]
    return row


def pack(rows: list[dict[str, Any]]) -> str:
    """The vector file: a head that says what it is, then one row per line."""
    plain = {row["config"]: row for row in rows if not row["options"]}
    kept = [row for row in rows if "failed" not in row]
    head = {
        "engine": rows[0]["engine"],
        "date": max(row["date"] for row in rows),
        "how": HOW,
        "not_built": sorted({row["config"] for row in rows if "failed" in row and not row["options"]}),
    }
    lines = [json.dumps(_packed(row, plain.get(row["config"], {})), separators=(",", ":")) for row in kept]
    return json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n' + ",\n".join(lines) + "\n ]\n}\n"


def main() -> None:
    """Write jobs or vectors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, source in (("jobs", "--configs"), ("pack", "--rows")):
        command = commands.add_parser(name)
        command.add_argument(source, type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "jobs":
        names = sorted(path.stem for path in arguments.configs.glob("*.json"))
        arguments.out.write_text("".join(json.dumps(job) + "\n" for job in jobs(names)))
        return
    arguments.out.write_text(pack([json.loads(line) for line in arguments.rows.read_text().splitlines()]))


if __name__ == "__main__":
    main()
