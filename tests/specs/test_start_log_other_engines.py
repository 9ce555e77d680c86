"""Start-up logs of SGLang and llama.cpp: the engines' own lines, with figures that people reported."""

from __future__ import annotations

from fractions import Fraction

from start_logs import LOGS, in_gib, parse

from kvplan.core.units import GIB, MIB
from kvplan.specs.start_log import read_start_log

# https://github.com/sgl-project/sglang/pull/4826 (Gemma 3 4B with tp 2, 2025-03-27)
SGLANG_0_4 = """
[2025-03-27 21:33:20] server_args=ServerArgs(model_path='google/gemma-3-4b-it', tokenizer_path='google/gemma-3-4b-it', \
context_length=None, kv_cache_dtype='auto', mem_fraction_static=0.87, max_running_requests=None, \
chunked_prefill_size=8192, tp_size=2, pp_size=1, dp_size=1, page_size=1, disable_radix_cache=False, \
disable_cuda_graph=False)
[2025-03-27 21:33:21 TP0] Init torch distributed ends. mem usage=1.77 GB
[2025-03-27 21:33:21 TP1] Load weight begin. avail mem=139.30 GB
[2025-03-27 21:33:21 TP0] Load weight begin. avail mem=139.21 GB
[2025-03-27 21:33:30 TP1] Load weight end. type=Gemma3ForConditionalGeneration, dtype=torch.bfloat16, avail \
mem=131.00 GB, mem usage=8.30 GB.
[2025-03-27 21:33:30 TP0] Load weight end. type=Gemma3ForConditionalGeneration, dtype=torch.bfloat16, avail \
mem=131.08 GB, mem usage=8.13 GB.
[2025-03-27 21:33:31 TP1] KV Cache is allocated. #tokens: 834615, K size: 54.12 GB, V size: 54.12 GB
[2025-03-27 21:33:31 TP0] KV Cache is allocated. #tokens: 834615, K size: 54.12 GB, V size: 54.12 GB
[2025-03-27 21:33:31 TP0] Memory pool end. avail mem=14.61 GB
[2025-03-27 21:33:40 TP0] Capture cuda graph end. Time elapsed: 9.01 s. mem usage=1.44 GB. avail mem=9.72 GB.
[2025-03-27 21:33:41 TP0] max_total_num_tokens=834615, chunked_prefill_size=8192, max_prefill_tokens=16384, \
max_running_requests=4096, context_len=131072
"""


def test_sglang_says_its_pools_in_binary_gigabytes() -> None:
    start = parse(SGLANG_0_4)
    got = start.arguments
    assert (start.engine, start.version, start.model) == ("sglang", None, "google/gemma-3-4b-it")
    assert in_gib(start, "free_bytes", "weights_bytes", "non_torch_bytes") == (139.21, 8.13, 1.77)
    assert in_gib(start, "kv_cache_bytes", "cuda_graph_bytes", "activation_bytes") == (108.24, 1.44, None)
    assert start.tolerance_bytes["kv_cache_bytes"] == 2 * -(-GIB // 200)
    assert (start.capacity_tokens, got.max_num_seqs, got.max_seq_len) == (834615, 4096, 131072)
    assert (got.tp, got.pp, got.dp, got.max_num_batched_tokens, got.block_tokens) == (2, 1, 1, 8192, 1)
    assert (got.gpu_memory_utilization, got.kv_cache_dtype) == (Fraction("0.87"), "auto")
    assert (got.enforce_eager, got.prefix_caching) == (False, True)


def test_sglang_adds_windowed_and_full_pools_and_states() -> None:
    # https://github.com/sgl-project/sglang/pull/18039 (windowed pool), words of 0.5.23 for the states
    start = parse("""
[2026-01-31 13:50:39 TP0] KV Cache is allocated. #tokens: 300288, K size: 8.38 GB, V size: 5.59 GB
[2026-01-31 13:50:39 TP0] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 375360, K size: 4.00 GB, V \
size: 2.00 GB
[2026-01-31 13:50:39 TP0] Mamba Cache is allocated. max_mamba_cache_size: 512, conv_state size: 0.25GB, ssm_state \
size: 3.50GB
""")
    assert in_gib(start, "kv_cache_bytes") == (23.72,)


def test_sglang_has_one_size_for_latents() -> None:
    # https://github.com/sgl-project/sglang/pull/14071
    start = parse("""
[2025-12-18 22:43:05 TP2] KV Cache is allocated. #tokens: 60000, KV size: 0.13 GB, layout=(60001, 1, 576), page_size=1
[2025-12-18 22:43:05 TP3] KV Cache is allocated. #tokens: 60000, KV size: 0.13 GB, layout=(60001, 1, 576), page_size=1
""")
    assert in_gib(start, "kv_cache_bytes") == (0.13,)  # of one rank, though the first is not in the excerpt


def test_sglang_of_0_5_prints_a_dictionary_and_sizes_its_cache_after_the_graphs() -> None:
    """By the words of 0.5.23 (``engine.py``, ``kv_pool_runtime.py``, ``bootstrap.py``)."""
    start = parse("""
[2026-11-20 10:00:00] server_args={'model_path': 'Qwen/Qwen3-8B', 'tp_size': 1, 'dcp_size': 1, 'page_size': 64, \
'kv_cache_dtype': 'fp8_e4m3', 'mem_fraction_static': 0.85, 'disable_radix_cache': True, 'disable_cuda_graph': False}
[2026-11-20 10:00:01] Memory baseline taken. mem usage=0.25 GB
[2026-11-20 10:00:09] Load weight end. elapsed=3.20 s, type=Qwen3ForCausalLM, avail mem=62.50 GB, mem usage=15.27 GB.
[2026-11-20 10:00:09] KV Cache VA upper bound. dtype: torch.float8_e4m3fn, #tokens: 900000, K size: 31.00 GB, V size: \
31.00 GB
[2026-11-20 10:00:20] Capture target decode CUDA graph end. bs=[1], elapsed=9 s, mem usage=0.50 GB, avail mem=61.00 GB.
[2026-11-20 10:00:30] Capture target prefill CUDA graph end. elapsed=9.00 s, mem usage=0.75 GB, avail mem=60.0 GB.
[2026-11-20 10:00:31] Post-capture KV sizing: KV cache allocated. dtype: torch.float8_e4m3fn, #tokens: 700000, KV \
size: 48.07 GB, avail mem=12.00 GB
""")
    got = start.arguments
    assert (start.model, got.dcp, got.block_tokens, got.kv_cache_dtype) == ("Qwen/Qwen3-8B", 1, 64, "fp8_e4m3")
    assert (got.prefix_caching, got.gpu_memory_utilization) == (False, Fraction("0.85"))
    assert in_gib(start, "kv_cache_bytes", "cuda_graph_bytes", "non_torch_bytes") == (48.07, 1.25, 0.25)


def test_sglang_without_memory_refuses() -> None:
    start = parse("""
[2026-01-31 13:50:39 TP0] Load weight end. type=X, dtype=torch.bfloat16, avail mem=1.00 GB, mem usage=78.00 GB.
RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.8
""")
    assert start.error is not None
    assert start.error.kind == "no_cache_memory"


def test_llamacpp_on_a_cpu_is_read_exactly() -> None:
    start = read_start_log(LOGS / "llamacpp-0.5-cpu-gptoss20b-skeleton.log")
    got = start.arguments
    assert (start.engine, start.model, start.error, start.notes) == ("llamacpp", "gpt-oss-20b.gguf", None, ())
    assert start.kv_cache_bytes == 2 * 68 * MIB  # two caches, of windowed and of full layers
    assert (start.weights_bytes, start.activation_bytes) == (round(18.84 * MIB), round(32.83 * MIB))
    assert (start.capacity_tokens, got.max_seq_len, got.max_num_seqs, got.max_num_batched_tokens) == (
        32768,
        8192,
        4,
        512,
    )
    assert got.kv_cache_dtype == "q8_0"
    assert start.tolerance_bytes["weights_bytes"] == -(-MIB // 200)


def test_llamacpp_of_2024_counts_the_devices_and_not_the_host() -> None:
    # https://github.com/ggml-org/llama.cpp/pull/6122 (two cards, before build 3000)
    start = parse("""
  Device 0: NVIDIA GeForce RTX 4070 Ti, compute capability 8.9, VMM: yes
  Device 1: NVIDIA GeForce RTX 3090 Ti, compute capability 8.6, VMM: yes
llm_load_tensors: offloaded 41/41 layers to GPU
llm_load_tensors:        CPU buffer size =  1640.62 MiB
llm_load_tensors:      CUDA0 buffer size =  5434.38 MiB
llm_load_tensors:      CUDA1 buffer size = 13989.53 MiB
llama_new_context_with_model: n_ctx      = 4096
llama_new_context_with_model: n_batch    = 2048
llama_new_context_with_model: n_ubatch   = 512
llama_kv_cache_init:      CUDA0 KV buffer size =  1536.00 MiB
llama_kv_cache_init:      CUDA1 KV buffer size =  3584.00 MiB
llama_new_context_with_model: KV self size  = 5120.00 MiB, K (f16): 2560.00 MiB, V (f16): 2560.00 MiB
llama_new_context_with_model:  CUDA_Host  output buffer size =     1.95 MiB
llama_new_context_with_model:      CUDA0 compute buffer size =   672.01 MiB
llama_new_context_with_model:      CUDA1 compute buffer size =   672.02 MiB
llama_new_context_with_model:  CUDA_Host compute buffer size =    72.02 MiB
""")
    assert start.weights_bytes == round(5434.38 * MIB) + round(13989.53 * MIB)
    assert (start.kv_cache_bytes, start.capacity_tokens) == (5120 * MIB, 4096)
    assert start.activation_bytes == round(672.01 * MIB) + round(672.02 * MIB)
    assert "CUDA0, CUDA1" in start.notes[0]


def test_llamacpp_of_2025_names_its_build_its_card_and_its_cache_types() -> None:
    # https://github.com/SciSharp/LLamaSharp/issues/1099 (build 4701); words of build 6000 and later for the cache
    start = parse("""
build: 4701 (be3bbd62) with MSVC 19.41.34120.0 for x64
llama_model_load_from_file_impl: using device CUDA0 (NVIDIA GeForce RTX 4080 SUPER) - 15035 MiB free
llama_model_loader: loaded meta data with 39 key-value pairs and 434 tensors from B:\\models\\qwen 2.5.gguf \
(version GGUF V3)
load_tensors:        CUDA0 model buffer size =  1834.82 MiB
load_tensors:   CPU_Mapped model buffer size =   243.43 MiB
llama_context: n_ctx_per_seq = 4096
llama_context: n_ctx         = 8192
llama_kv_cache_unified:      CUDA0 KV buffer size =   144.00 MiB
llama_kv_cache_unified:        CPU KV buffer size =    16.00 MiB
llama_kv_cache_unified: size =  160.00 MiB (  8192 cells,  36 layers,  2/2 seqs), K (q8_0):  100.00 \
MiB, V (f16):   60.00 MiB
llama_context:      CUDA0 compute buffer size =   290.75 MiB
llama_context:      CUDA0 compute buffer size =   300.75 MiB
""")
    assert (start.version, start.accelerator) == ("b4701", "NVIDIA GeForce RTX 4080 SUPER")
    assert (start.model, start.free_bytes) == ("B:\\models\\qwen 2.5.gguf", 15035 * MIB)
    assert start.tolerance_bytes["free_bytes"] == MIB  # cut to whole MiB
    assert (start.kv_cache_bytes, start.activation_bytes) == (144 * MIB, round(300.75 * MIB))
    assert (start.arguments.kv_cache_dtype, start.arguments.max_seq_len, start.capacity_tokens) == (
        "q8_0/f16",
        4096,
        8192,
    )
    assert "a part of the cache is in the host's memory" in start.notes[0]


def test_a_draft_model_of_llamacpp_is_left_out() -> None:
    # https://github.com/ggml-org/llama.cpp/issues/11337
    start = parse("""
llama_model_loader: loaded meta data with 38 key-value pairs and 771 tensors from main.gguf (version GGUF V3 (latest))
llama_kv_cache_init:      ROCm0 KV buffer size =  4352.00 MiB
llama_new_context_with_model: KV self size  = 4352.00 MiB, K (q8_0): 2176.00 MiB, V (q8_0): 2176.00 MiB
llama_new_context_with_model:      ROCm0 compute buffer size =   307.00 MiB
llama_model_loader: loaded meta data with 38 key-value pairs and 290 tensors from draft.gguf (version GGUF V3 (latest))
llama_kv_cache_init:      ROCm0 KV buffer size =   384.00 MiB
""")
    assert (start.model, start.kv_cache_bytes) == ("main.gguf", 4352 * MIB)
    assert "more than one model" in start.notes[-1]


def test_llamacpp_out_of_memory_says_how_much_was_asked() -> None:
    # https://github.com/ollama/ollama/pull/3418
    start = parse("""
llama_kv_cache_init:      ROCm0 KV buffer size =   128.00 MiB
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 826.00 MiB on device 0: cudaMalloc failed: out of memory
llama_new_context_with_model: failed to allocate compute buffers
""")
    assert start.error is not None
    assert (start.error.kind, start.error.needed_bytes) == ("out_of_memory", 826 * MIB)


def test_the_name_of_a_device_may_have_brackets() -> None:
    line = "llama_load: using device SYCL0 (Intel(R) Arc(TM) A770 Graphics) (0000:03:00.0) - 15473 MiB free"
    start = parse(f"{line}\nload_tensors:        SYCL0 model buffer size =  1834.82 MiB")
    assert (start.accelerator, start.free_bytes) == ("Intel(R) Arc(TM) A770 Graphics", 15473 * MIB)
