"""CUDA graphs in vLLM: what is subtracted for them before the cache is sized, and what their capture takes later.

Since 0.21 the first runner captures two graphs of each sort and extrapolates (0.25.1
``v1/worker/gpu_model_runner.py:6498``); the second runner subtracts nothing in 0.25
(``v1/worker/gpu/model_runner.py:680``) and extrapolates too in 0.32 (``v1/worker/gpu/cudagraph_utils.py:873``). What a
graph takes is the driver's own: the coefficients here are fitted to start-ups on an H200
(``tests/vectors/vllm_0.25_startups.json``).
"""

from __future__ import annotations

from typing import NamedTuple

from kvplan.core.attention import HeadedKind
from kvplan.core.units import GIB, MIB
from kvplan.engines.vllm.profile_run import ProfileRun

ATTENTION_SPLITS = 32
"""Splits that FlashAttention 3 reserves in full graphs (``flash_attn_max_num_splits_for_cuda_graph``)."""

FIRST_GRAPH_BYTES = 128 * MIB
"""First graph of a sort: 96 MiB (Mixtral, 512 tokens) and 178 MiB (gpt-oss, 1024 tokens) were measured."""

LEAST_GRAPH_BYTES = 3 * MIB
"""Further graphs of one size, piecewise and full: 2 MiB and the 1 MiB that vLLM counts at least."""

LAYER_GRAPH_BYTES = 215 * MIB // 1000
"""Further graphs of one size, per layer: 5.1 MiB over 24 layers (gpt-oss-20b) and 14.0 over 64 (Qwen3.5-27B)."""

CAPTURED_BASE_BYTES = 600 * MIB
"""Capture besides the graphs of each layer: 0.3 to 0.8 GiB over eleven start-ups."""

ESTIMATE_ERROR_BYTES, CAPTURE_ERROR_BYTES = 100 * MIB, 300 * MIB
"""Largest differences from what was measured."""


class GraphBytes(NamedTuple):
    """``subtracted`` before the cache is sized, give or take ``error``; ``captured`` after it."""

    subtracted: int
    error: int
    captured: int


def graph_bytes(run: ProfileRun) -> GraphBytes:
    """What CUDA graphs take from the cache, and what their capture takes on top."""
    sizes = run.graph_sizes
    if not sizes:
        return GraphBytes(0, 0, 0)
    layer_bytes = LAYER_GRAPH_BYTES * len(run.layers)
    captured = CAPTURED_BASE_BYTES + len(sizes) * layer_bytes
    if run.second_runner:
        estimated = run.rules.second_runner_runs_all
        return GraphBytes(captured, CAPTURE_ERROR_BYTES, 0) if estimated else GraphBytes(0, 0, captured)
    first = max(FIRST_GRAPH_BYTES, split_buffer_bytes(run))
    further = (len(sizes) - 1) * max(LEAST_GRAPH_BYTES, layer_bytes)
    return GraphBytes(first + further, ESTIMATE_ERROR_BYTES, max(captured - first - further, 0))


def split_buffer_bytes(run: ProfileRun) -> int:
    """32-bit partial outputs of FlashAttention 3 in the largest full graph: splits x requests x heads.

    Measured for Mixtral: 32 x 512 x 32 x 128 x 4 B = 256 MiB. Models that mix windows with full attention lose the
    ahead-of-time schedule (``v1/attention/backends/flash_attn.py:469``) and allocated none (gpt-oss).
    """
    headed = [kind for kind in run.kinds if isinstance(kind, HeadedKind)]
    if run.device.major != 9 or not headed or len({kind.window_tokens for kind in headed}) > 1:
        return 0
    requests = min(run.graph_sizes[-1], run.requests)
    width = max(kind.v_head_dim or kind.head_dim for kind in headed) * run.heads
    return ATTENTION_SPLITS * requests * width * 4


def graph_lines(run: ProfileRun, graphs: GraphBytes) -> tuple[str, ...]:
    """What is subtracted, and why."""
    if not run.graph_sizes:
        return ("CUDA graphs: none, the model runs eagerly",)
    sizes, layers = len(run.graph_sizes), len(run.layers)
    taken = f"{sizes} sizes up to {run.graph_sizes[-1]} tokens, {layers} layers"
    if not graphs.subtracted:
        return (
            f"CUDA graphs: nothing is subtracted (second runner of {run.rules.version}); their capture takes about "
            f"{graphs.captured / GIB:.2f} GiB beyond the memory asked for ({taken})",
        )
    return (f"CUDA graphs: about {graphs.subtracted / GIB:.2f} GiB are subtracted ({taken})",)
