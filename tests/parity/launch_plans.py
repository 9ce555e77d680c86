"""Launch plans whose command lines the engines' own parsers read, and what must arrive there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kvplan.core.launch import LaunchPlan
from kvplan.core.parallel import Parallel

GIB = 1 << 30
MODEL = "meta-llama/Llama-3.1-8B"

VLLM_WORDS = (
    "fp8 fp8_e4m3 fp8_e5m2 fp8_ds_mla nvfp4 nvfp4_ds_mla bfloat16 int8_per_token_head fp8_per_token_head "
    "int4_per_token_head turboquant_k8v4 turboquant_4bit_nc turboquant_k3v4_nc turboquant_3bit_nc"
).split()
SGLANG_WORDS = "fp8_e4m3 fp8_e5m2 bf16 bfloat16 mxfp8 nvfp4 fp4_mx_block16".split()
LLAMACPP_WORDS = "f16 f32 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1".split()

Cases = list[tuple[LaunchPlan, dict[str, Any]]]
"""Plans with the fields that the parser must fill, besides the model; all others keep the engine's defaults."""


def vllm_cases() -> Cases:
    """Every word, every part of a plan alone, and all of them together."""
    parts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"native_layers": (0, 1, 31)}, {"kv_cache_dtype_skip_layers": ["0", "1", "31"]}),
        ({"native_windows": True}, {"kv_cache_dtype_skip_layers": ["sliding_window"]}),
        ({"parallel": Parallel(tp=4, dcp=2)}, {"tensor_parallel_size": 4, "decode_context_parallel_size": 2}),
        ({"parallel": Parallel(pp=2, dp=3)}, {"pipeline_parallel_size": 2, "data_parallel_size": 3}),
        ({"max_model_len": 131072}, {"max_model_len": 131072}),
        ({"max_num_seqs": 64}, {"max_num_seqs": 64}),
        ({"max_num_batched_tokens": 16384}, {"max_num_batched_tokens": 16384}),
        ({"memory_utilization": 0.9}, {"gpu_memory_utilization": 0.9}),
        ({"block_tokens": 64}, {"block_size": 64}),
        ({"attention_backend": "flashinfer"}, {"attention_backend": "FLASHINFER"}),
        ({"attention_backend": "TRITON_ATTN"}, {"attention_backend": "TRITON_ATTN"}),
        ({"prefix_caching": True}, {"enable_prefix_caching": True}),
        ({"prefix_caching": False}, {"enable_prefix_caching": False}),
        ({"expert_parallel": True}, {"enable_expert_parallel": True}),
        ({"eager": True}, {"enforce_eager": True}),
        ({"text_only": True}, {"language_model_only": True}),
        ({"host_cache_bytes": 64 * GIB}, {"kv_offloading_size": 64.0}),
        (
            {"host_cache_bytes": GIB // 4, "parallel": Parallel(tp=2)},
            {"kv_offloading_size": 0.25, "tensor_parallel_size": 2},
        ),
    ]
    return _cases("vllm", "kv_cache_dtype", VLLM_WORDS, parts)


def sglang_cases() -> Cases:
    """The same for SGLang."""
    parts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"parallel": Parallel(tp=4, dcp=2)}, {"tp_size": 4, "dcp_size": 2}),
        ({"parallel": Parallel(pp=2, dp=3)}, {"pp_size": 2, "dp_size": 3}),
        ({"max_model_len": 131072}, {"context_length": 131072}),
        ({"max_num_seqs": 64}, {"max_running_requests": 64}),
        ({"max_num_batched_tokens": 16384}, {"chunked_prefill_size": 16384}),
        ({"memory_utilization": 0.85}, {"mem_fraction_static": 0.85}),
        ({"block_tokens": 64}, {"page_size": 64}),
        ({"attention_backend": "FLASHINFER"}, {"attention_backend": "flashinfer"}),
        ({"prefix_caching": True}, {}),
        ({"prefix_caching": False}, {"disable_radix_cache": True}),
        ({"expert_parallel": True, "parallel": Parallel(tp=8)}, {"ep_size": 8, "tp_size": 8}),
        ({"eager": True}, {"disable_prefill_cuda_graph": True, "disable_decode_cuda_graph": True}),
        ({"text_only": True}, {"language_model_only": True}),
        (
            {"host_cache_bytes": 40 * 10**9, "parallel": Parallel(tp=4)},
            {"enable_hierarchical_cache": True, "hicache_size": 10, "tp_size": 4},
        ),
    ]
    return _cases("sglang", "kv_cache_dtype", SGLANG_WORDS, parts)


def llamacpp_cases() -> Cases:
    """llama-server's cache types alone and in pairs, slots, and both ways to name a model."""
    file = LaunchPlan(model="folder with spaces/model.gguf", engine="llamacpp")
    hub = LaunchPlan(model="ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", engine="llamacpp", max_model_len=8192)
    named = {"model": "folder with spaces/model.gguf", "hf_repo": ""}
    cases: Cases = [
        (file, named),
        (hub, {"model": "", "hf_repo": "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", "n_ctx": 8192}),
    ]
    for word in LLAMACPP_WORDS:
        flash = {"flash_attn": "on"} if word.startswith(("q", "iq")) else {}
        plan = replace(file, cache_word=word, max_model_len=65536, max_num_seqs=4)
        cases.append((plan, named | flash | {"n_ctx": 262144, "n_parallel": 4, "type_k": word, "type_v": word}))
    pair = {"type_k": "q8_0", "type_v": "q4_0", "flash_attn": "on"}
    cases += [
        (replace(file, cache_word="q8_0/q4_0"), named | pair),
        (replace(file, cache_word="q8_0/f16"), named | {"type_k": "q8_0"}),
        (replace(file, cache_word="fp16"), named),
        (replace(file, prefix_caching=False), named | {"cache_prompt": False}),
        (replace(file, text_only=True), named | {"no_mmproj": True}),
    ]
    return cases


def _cases(engine: str, field: str, words: list[str], parts: list[tuple[dict[str, Any], dict[str, Any]]]) -> Cases:
    plain = LaunchPlan(model=MODEL, engine=engine)
    cases = [(replace(plain, **changes), filled) for changes, filled in parts]
    cases += [(replace(plain, cache_word=word), {field: word}) for word in words]
    together: dict[str, Any] = {"cache_word": words[0], "max_model_len": 32768, "max_num_seqs": 16}
    length = "max_model_len" if engine == "vllm" else "context_length"
    running = "max_num_seqs" if engine == "vllm" else "max_running_requests"
    for changes, filled in parts:
        expected = {field: words[0], length: 32768, running: 16} | filled
        cases.append((replace(plain, **{**together, **changes}), expected))
    return cases
