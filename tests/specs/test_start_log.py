"""Start-up logs against what the engines measured.

The six logs of vLLM 0.25.1 on an H200 and the figures beside them were taken on 2026-11-23 (one GPU, dummy weights);
those of vLLM 0.32.0 and llama.cpp 0.5 (llama-cpp-python 0.3.36) on CPU on 2026-11-24. The other logs are the engines'
own lines with the figures that people reported, at the address beside each, without times and paths.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
from start_logs import LOGS, gib, in_gib, parse

from kvplan.core.measured import FIGURES, MeasuredStart
from kvplan.core.units import GIB, MIB
from kvplan.specs import log_lines
from kvplan.specs.start_log import read_start_log

# run: weights, activation, non-torch, graphs estimated, graphs taken, cache (GiB), tokens, concurrency
H200 = {
    "llama8b": (15.0, 1.78, 0.22, None, 0.99, 111.61, 914304, 6.98),
    "llama8b-alt": (15.04, 0.79, 0.22, None, None, 53.85, 882256, 53.85),
    "qwen3-8b": (15.27, 1.59, 0.22, None, 1.01, 111.53, 812160, 24.79),
    "gptoss20b": (13.02, 2.92, 0.23, 0.58, 1.04, 111.88, 4340564, 33.12),
    "qwen35-27b": (50.22, 3.64, 0.25, 1.06, 1.16, 73.44, 1175815, 8.97),
    "dsv2lite": (29.34, 1.74, 0.22, None, None, 97.31, 3359312, 102.52),
}
# run: model, max_seq_len, cache dtype, utilization, batched tokens, eager, prefix caching, block
H200_ARGUMENTS = {
    "llama8b": ("meta-llama--Meta-Llama-3.1-8B", 131072, "auto", "0.92", 16384, False, True, None),
    "llama8b-alt": ("meta-llama--Meta-Llama-3.1-8B", 16384, "fp8", "0.5", 2048, True, True, None),
    "qwen3-8b": ("Qwen--Qwen3-8B", 32768, "auto", "0.92", 16384, False, True, None),
    "gptoss20b": ("openai--gpt-oss-20b", 131072, "auto", "0.92", 16384, False, True, None),
    "qwen35-27b": ("Qwen--Qwen3.5-27B", 131072, "auto", "0.92", 16384, False, False, 784),
    "dsv2lite": ("deepseek-ai__DeepSeek-V2-Lite", 32768, "auto", "0.92", 16384, True, True, None),
}


def h200(run: str) -> MeasuredStart:
    return read_start_log(LOGS / f"vllm-0.25.1-h200-{run}.log")


@pytest.mark.parametrize("run", H200)
def test_the_figures_of_vllm_on_an_h200_are_read_exactly(run: str) -> None:
    start, row = h200(run), H200[run]
    assert (start.engine, start.version, start.error) == ("vllm", "0.25.1", None)
    assert (start.weights_bytes, start.activation_bytes, start.non_torch_bytes) == tuple(map(gib, row[:3]))
    assert (start.cuda_graph_estimate_bytes, start.cuda_graph_bytes, start.kv_cache_bytes) == tuple(map(gib, row[3:6]))
    assert (start.capacity_tokens, start.max_concurrency) == row[6:]
    assert (start.free_bytes, start.total_bytes) == (gib(139.29), gib(139.8))
    assert start.requested_bytes == gib(69.9 if run == "llama8b-alt" else 128.62)


@pytest.mark.parametrize("run", H200_ARGUMENTS)
def test_the_arguments_of_vllm_on_an_h200_are_read(run: str) -> None:
    start, (model, longest, dtype, utilization, batched, eager, prefixes, block) = h200(run), H200_ARGUMENTS[run]
    got = start.arguments
    assert (start.model, got.max_seq_len, got.kv_cache_dtype) == (model, longest, dtype)
    assert (got.gpu_memory_utilization, got.max_num_batched_tokens) == (Fraction(utilization), batched)
    assert (got.enforce_eager, got.prefix_caching, got.block_tokens) == (eager, prefixes, block)
    assert (got.tp, got.pp, got.dp, got.dcp, got.max_num_seqs) == (1, 1, 1, 1, 1024)


@pytest.mark.parametrize("run", H200)
def test_the_lines_of_a_budget_add_up_to_what_was_requested(run: str) -> None:
    """What vLLM 0.25 subtracts (``gpu_worker.py``): weights, activation, non-torch and the graphs' estimate."""
    start = h200(run)
    lines = ("weights_bytes", "activation_bytes", "non_torch_bytes", "cuda_graph_estimate_bytes", "kv_cache_bytes")
    total = sum(getattr(start, line) or 0 for line in lines)
    allowed = sum(start.tolerance_bytes.get(line, 0) for line in (*lines, "requested_bytes"))
    assert start.requested_bytes is not None
    assert abs(start.requested_bytes - total) <= allowed


def test_every_figure_carries_the_rounding_of_its_log() -> None:
    start = h200("gptoss20b")
    assert set(start.tolerance_bytes) == {name for name in FIGURES if getattr(start, name) is not None}
    assert set(start.tolerance_bytes.values()) == {-(-GIB // 200)}  # 0.005 GiB either way


def test_a_log_of_0_32_says_capacity_and_concurrency_on_one_line() -> None:
    start = read_start_log(LOGS / "vllm-0.32.0-cpu-qwen3-8b-skeleton.log")
    assert (start.version, start.kv_cache_bytes, start.capacity_tokens, start.max_concurrency) == (
        "0.32.0",
        2 * GIB,
        14464,
        3.53,
    )
    assert (start.arguments.max_seq_len, start.arguments.max_num_seqs) == (4096, 8)
    assert start.weights_bytes is None


def test_the_refusal_of_0_32_is_read_in_full() -> None:
    start = read_start_log(LOGS / "vllm-0.32.0-cpu-refused.log")
    error = start.error
    assert error is not None
    assert (error.kind, error.needed_bytes, error.available_bytes) == ("kv_cache", gib(4.5), gib(1.98))
    assert (error.max_seq_len, error.estimated_max_model_len) == (32768, 14336)
    assert error.tolerance_bytes == -(-GIB // 200)
    assert error.message.startswith("To serve at least one request")
    assert start.capacity_tokens is None


def test_0_33_measures_weights_and_non_torch_memory_together() -> None:
    """By the words of 0.33.0 (``mem_utils.py``, ``gpu_worker.py``), whose peak holds the graphs' estimate."""
    start = parse("""
(EngineCore pid=7) INFO [core.py:133] Initializing a V1 LLM engine (v0.33.0) with config: model='m', enforce_eager=False
(EngineCore pid=7) INFO [gpu_model_runner.py:5089] Model loading took 13.02 GiB memory and 0.95 seconds
(EngineCore pid=7) INFO [gpu_model_runner.py:6410] Estimated CUDA graph memory: 0.58 GiB total
(EngineCore pid=7) INFO [gpu_worker.py:773] Available KV cache memory: 111.88 GiB
(EngineCore pid=7) INFO [gpu_worker.py:785] CUDA graph memory profiling is enabled (default since v0.21.0). The \
current --gpu-memory-utilization=0.9200 is equivalent to --gpu-memory-utilization=0.9159 without.
(EngineCore pid=7) INFO [gpu_worker.py:1068] Free memory on device (139.29/139.8 GiB) on startup. Desired GPU memory \
utilization is (0.92, 128.62 GiB). Actual usage is 13.25 GiB for consumed memory (weights + non-torch), 3.5 GiB for \
peak activation, and 1.04 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with \
`--kv-cache-memory=1` (0.0 GiB) to fit into requested memory. Current kv cache memory in use is 111.88 GiB.
""")
    assert in_gib(start, "weights_bytes", "non_torch_bytes", "activation_bytes") == (13.02, 0.23, 2.92)
    assert in_gib(start, "cuda_graph_estimate_bytes", "cuda_graph_bytes") == (0.58, 1.04)
    assert start.tolerance_bytes["non_torch_bytes"] == 2 * -(-GIB // 200)
    assert start.arguments.gpu_memory_utilization == Fraction("0.92")


# https://github.com/vllm-project/vllm/issues/10517 (0.6.4, Llama-3.1-8B on an RTX 3090)
BLOCKS_0_6_4 = """
INFO model_runner.py:1077] Loading model weights took 14.9888 GB
INFO worker.py:232] Memory profiling results: total_gpu_memory=23.58GiB initial_memory_usage=15.34GiB \
peak_torch_memory=17.06GiB memory_usage_post_profile=15.35GiB non_torch_memory=0.35GiB kv_cache_size=3.81GiB \
gpu_memory_utilization=0.90
INFO gpu_executor.py:113] # GPU blocks: 1952, # CPU blocks: 2048
INFO gpu_executor.py:117] Maximum concurrency for 20000 tokens per request: 1.56x
"""


def test_blocks_of_0_6_are_counted_in_tokens_by_the_logged_concurrency() -> None:
    start = parse(BLOCKS_0_6_4)
    assert in_gib(start, "total_bytes", "weights_bytes", "non_torch_bytes", "kv_cache_bytes") == (
        23.58,
        14.9888,
        0.35,
        3.81,
    )
    assert in_gib(start, "activation_bytes") == (round(17.06 - 14.9888, 4),)
    assert start.tolerance_bytes["weights_bytes"] == -(-GIB // 20000)
    assert (start.num_blocks, start.arguments.block_tokens, start.capacity_tokens) == (1952, 16, 31232)
    assert start.max_concurrency == 1.56
    assert "implied by the logged concurrency" in start.notes[-1]


def test_blocks_without_a_concurrency_say_that_their_size_is_the_default() -> None:
    start = parse("INFO gpu_executor.py:122] # GPU blocks: 5402, # CPU blocks: 8192")
    assert start.capacity_tokens == 5402 * 16
    assert "the log does not say it" in start.notes[0]


def test_the_refusal_of_0_6_counts_tokens() -> None:
    # https://github.com/vllm-project/vllm/issues/8933 (0.6.2, four workers)
    start = parse("""
INFO model_runner.py:1025] Loading model weights took 3.7710 GB
INFO distributed_gpu_executor.py:57] # GPU blocks: 5402, # CPU blocks: 8192
(VllmWorkerProcess pid=9) ERROR multiproc_worker_utils.py:233] ValueError: The model's max seq len (131072) is larger \
than the maximum number of tokens that can be stored in KV cache (86432). Try increasing `gpu_memory_utilization`
""")
    assert start.error is not None
    assert (start.error.kind, start.error.max_seq_len, start.error.estimated_max_model_len) == (
        "kv_cache",
        131072,
        86432,
    )
    assert start.error.needed_bytes is None


def test_0_6_6_spreads_its_profile_over_lines() -> None:
    # https://github.com/vllm-project/vllm/pull/10511 (Llama-3-8B on an H100, 2024-12-13)
    start = parse("""
INFO worker.py:243] Memory profiling results:
INFO worker.py:243] duration\t0.75 seconds
INFO worker.py:243] total_gpu_memory\t79.22GiB
INFO worker.py:243] gpu_memory_utilization\t0.90
INFO worker.py:243] the current vLLM instance can use\t71.29GiB
INFO worker.py:243] model weights take\t14.96GiB
INFO worker.py:243] non_torch_memory\t1.79GiB
INFO worker.py:243] PyTorch activation peak memory\t1.26GiB
INFO worker.py:243] available_kv_cache_memory\t53.29GiB
""")
    fields = (
        "total_bytes",
        "requested_bytes",
        "weights_bytes",
        "non_torch_bytes",
        "activation_bytes",
        "kv_cache_bytes",
    )
    assert in_gib(start, *fields) == (79.22, 71.29, 14.96, 1.79, 1.26, 53.29)
    assert start.arguments.gpu_memory_utilization == Fraction("0.9")


def test_0_7_to_0_11_of_the_first_engine_say_it_in_sentences() -> None:
    # https://github.com/generative-computing/mellea/pull/416
    start = parse("""
INFO [worker.py:294] Memory profiling takes 0.44 seconds
INFO [worker.py:294] the current vLLM instance can use total_gpu_memory (79.19GiB) x gpu_memory_utilization (0.80) = \
63.35GiB
INFO [worker.py:294] model weights take 1.12GiB; non_torch_memory takes 0.16GiB; PyTorch activation peak memory takes \
0.23GiB; the rest of the memory reserved for KV Cache is 61.84GiB.
INFO [executor_base.py:113] # cuda blocks: 36184, # CPU blocks: 2340
INFO [executor_base.py:118] Maximum concurrency for 8192 tokens per request: 70.67x
INFO [model_runner.py:1671] Graph capturing finished in 2 secs, took 0.13 GiB
""")
    fields = (
        "total_bytes",
        "requested_bytes",
        "weights_bytes",
        "non_torch_bytes",
        "activation_bytes",
        "kv_cache_bytes",
    )
    assert in_gib(start, *fields) == (79.19, 63.35, 1.12, 0.16, 0.23, 61.84)
    assert in_gib(start, "cuda_graph_bytes") == (0.13,)
    assert start.capacity_tokens == 36184 * 16


def test_the_first_rank_speaks_and_the_smallest_cache_counts() -> None:
    start = parse("""
(Worker_PP0_TP1 pid=120) INFO [gpu_model_runner.py:4879] Model loading took 12.70 GiB memory and 31.6 seconds
(Worker_PP0_TP0 pid=119) INFO [gpu_model_runner.py:4879] Model loading took 12.66 GiB memory and 31.6 seconds
(Worker_PP0_TP0 pid=119) INFO [gpu_worker.py:460] Available KV cache memory: 10.55 GiB
(Worker_PP1_TP0 pid=121) INFO [gpu_worker.py:460] Available KV cache memory: 9.75 GiB
(EngineCore pid=43) INFO [kv_cache_utils.py:1337] GPU KV cache size: 98,304 tokens
(EngineCore pid=43) INFO [kv_cache_utils.py:1337] GPU KV cache size: 90,112 tokens
""")
    assert in_gib(start, "weights_bytes", "kv_cache_bytes") == (12.66, 9.75)
    assert start.capacity_tokens == 90112
    assert any("VLLM_LOGGING_LEVEL=DEBUG" in note for note in start.notes)


@pytest.mark.parametrize(
    ("prefix", "rank"),
    [
        ("INFO 01-30 03:18:12 ", ()),
        ("(EngineCore pid=697) ", ()),
        ("(EngineCore_0 pid=697) ", ()),
        ("(EngineCore_DP0 pid=697) ", ()),
        ("(EngineCore_DP1 pid=697) ", (1,)),
        ("(VllmWorker rank=0 pid=12) ", ()),
        ("(VllmWorker rank=3 pid=12) ", (3,)),
        ("(VllmWorker TP0 pid=12) ", ()),
        ("(VllmWorker TP1 pid=12) ", (1,)),
        ("(VllmWorker-1 pid=12) ", (1,)),
        ("(Worker pid=12) ", ()),
        ("(Worker_TP0 pid=12) ", ()),
        ("(Worker_TP11 pid=12) ", (11,)),
        ("(Worker_DP0_TP0_EP0 pid=12) ", ()),
        ("(Worker_DP1_TP0_EP2 pid=12) ", (1, 0, 2)),
        ("(VllmWorkerProcess pid=521) ", (1_000_000,)),
        ("(RayWorkerWrapper pid=6666, ip=10.0.0.2) ", (1_000_000,)),
        ("(EngineCore_DP0 pid=3) (RayWorkerWrapper pid=6666, ip=10.0.0.2) ", (0, 1_000_000)),
        ("[2025-10-16 09:06:10] ", ()),
        ("[2025-10-16 09:06:10 TP0] ", ()),
        ("[2025-10-16 09:06:10.123 TP7] ", (7,)),
        ("[2026-01-15 13:56:49 DP0 TP0 EP0] ", ()),
        ("[2026-01-15 13:56:49 DP1 TP1] ", (1, 1)),
    ],
)
def test_a_line_is_known_by_its_rank(prefix: str, rank: tuple[int, ...]) -> None:
    assert log_lines.rank_of(f"{prefix}Load weight end. (TP9 is not the rank)") == rank


def test_ray_logs_are_read_though_no_line_is_of_the_first_rank() -> None:
    start = parse("(RayWorkerWrapper pid=66, ip=10.0.0.2) INFO [x.py:1] Model loading took 12.66 GiB and 31.6 seconds")
    assert in_gib(start, "weights_bytes") == (12.66,)


def test_the_last_of_several_starts_counts() -> None:
    start = parse("""
INFO [core.py:1] Initializing a V1 LLM engine (v0.9.1) with config: model='a', max_seq_len=4096
INFO [x.py:1] Model loading took 15.0 GiB and 2 seconds
ERROR [core.py:1] ValueError: To serve at least one request with the models's max seq len (4096), (0.50 GiB KV cache \
is needed, which is larger than the available KV cache memory (0.25 GiB). Based on the available memory, the estimated \
maximum model length is 2048.
INFO [core.py:1] Initializing a V1 LLM engine (v0.9.2) with config: model='b', max_seq_len=2048
INFO [x.py:1] Model loading took 7.5 GiB and 2 seconds
""")
    assert (start.version, start.model, start.arguments.max_seq_len, start.error) == ("0.9.2", "b", 2048, None)
    assert in_gib(start, "weights_bytes") == (7.5,)
    assert "2 starts" in start.notes[0]


def test_another_replica_that_starts_later_is_no_second_start() -> None:
    start = parse("""
(EngineCore_DP0 pid=1) INFO [core.py:1] Initializing a V1 LLM engine (v0.11.0) with config: model='a'
(EngineCore_DP0 pid=1) INFO [x.py:1] Model loading took 15.0 GiB and 2 seconds
(EngineCore_DP1 pid=2) INFO [core.py:1] Initializing a V1 LLM engine (v0.11.0) with config: model='a'
""")
    assert in_gib(start, "weights_bytes") == (15.0,)


def test_what_is_left_may_be_below_zero() -> None:
    start = parse("""
INFO [gpu_worker.py:1] Available KV cache memory: -2.13 GiB
ERROR [core.py:1] ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`
""")
    assert in_gib(start, "kv_cache_bytes") == (-2.13,)
    assert start.error is not None
    assert start.error.kind == "no_cache_memory"


def test_memory_that_others_hold_is_a_refusal_of_its_own() -> None:
    # https://github.com/pytorch/pytorch/issues/175666
    start = parse("""
(EngineCore_DP0 pid=6940) ValueError: Free memory on device cuda:0 (19.77/22.05 GiB) on startup is less than desired \
GPU memory utilization (0.9, 19.84 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.
""")
    assert start.error is not None
    assert start.error.kind == "free_memory"
    assert in_gib(start, "free_bytes", "total_bytes", "requested_bytes") == (19.77, 22.05, 19.84)


def test_running_out_of_memory_counts_before_the_server_is_up_only() -> None:
    failed = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of \
79.10 GiB of which 200.00 MiB is free."
    loaded = "INFO [x.py:1] Model loading took 15.0 GiB and 2 seconds"
    error = parse(f"{loaded}\n{failed}").error
    assert error is not None
    assert (error.kind, error.needed_bytes, error.available_bytes) == ("out_of_memory", 512 * MIB, 200 * MIB)
    assert parse(f"{loaded}\nINFO:     Application startup complete.\n{failed}").error is None


def test_arguments_come_from_the_command_where_the_engine_is_silent() -> None:
    # https://github.com/noonghunna/club-3090/issues/295
    start = parse("""
(APIServer pid=1) INFO [utils.py:278] non-default args: {'model_tag': 'q', 'host': '0.0.0.0', 'model': 'org/q', \
'max_model_len': 262144, 'tensor_parallel_size': 2, 'kv_cache_dtype': 'fp8_e5m2', 'enable_prefix_caching': True, \
'max_num_batched_tokens': 8192, 'max_num_seqs': 2, 'gpu_memory_utilization': 0.95}
(EngineCore pid=120) INFO [kv_cache_utils.py:1733] GPU KV cache size: 620,944 tokens
""")
    got = start.arguments
    assert (start.model, got.tp, got.max_seq_len, got.kv_cache_dtype) == ("org/q", 2, 262144, "fp8_e5m2")
    assert (got.max_num_batched_tokens, got.max_num_seqs, got.prefix_caching) == (8192, 2, True)
    assert got.gpu_memory_utilization == Fraction("0.95")
