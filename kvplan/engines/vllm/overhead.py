"""What vLLM reserves on one rank besides weights and cache, as its own start-up accounts for it.

``cache = total x gpu_memory_utilization - weights - activations - other memory - CUDA graphs`` (0.25.1
``v1/worker/gpu_worker.py:459``). 0.32 and 0.33 subtract what the driver reports as taken and the peak above what stays
allocated, which comes to the same sum (``utils/mem_utils.py``).
"""

from __future__ import annotations

from kvplan.core.attention import Latent
from kvplan.core.overhead import Overhead, Phase, highest_phase, phase_lines
from kvplan.core.recurrent import RecurrentKind, StateBuffer
from kvplan.core.units import GIB, MIB
from kvplan.engines.vllm.activations import phases, runner_buffers
from kvplan.engines.vllm.cuda_graphs import graph_bytes, graph_lines
from kvplan.engines.vllm.profile_run import ProfileRun

CONTEXT_BYTES = 225 * MIB
"""CUDA context and libraries on an H200, driver 580 and CUDA 13: 0.22 GiB (0.23 in the first runner)."""

STATE_LIBRARY_BYTES = 31 * MIB
"""Kernels of recurrent layers on top: 0.25 GiB were measured for Qwen3.5-27B."""

COMMUNICATION_BYTES, COMMUNICATION_ERROR_BYTES = GIB, 3 * GIB // 4
"""NCCL's and the custom all-reduce's buffers with several ranks: not measured here."""

MEASURED_ERROR_BYTES = 32 * MIB
"""Largest difference of a phase whose tensors were measured."""

UNMEASURED_ERROR = 0.15
"""Share by which a phase that was only read from the source may be off."""


def overhead(run: ProfileRun) -> Overhead:
    """Activations, CUDA graphs and the runtime's own memory of one rank, with the equations."""
    found = phases(run)
    highest = highest_phase(found)
    graphs = graph_bytes(run)
    outside, outside_error = _non_torch(run)
    buffers = runner_buffers(run)
    certain = highest.measured and run.tp * run.dp == 1 and not graphs.subtracted
    return Overhead(
        activation_bytes=highest.total_bytes + (buffers.size_bytes if buffers else 0),
        cuda_graph_bytes=graphs.subtracted,
        non_torch_bytes=outside,
        captured_graph_bytes=graphs.captured,
        certainty="rule" if certain else "estimate",
        expected_error_bytes=_activation_error(highest) + graphs.error + outside_error,
        cuda_graph_error_bytes=graphs.error,
        non_torch_error_bytes=outside_error,
        lines=(
            _batch_line(run),
            *phase_lines(found),
            *((f"{buffers.name}: {buffers.shape} = {buffers.size_bytes:,} B, kept",) if buffers else ()),
            *graph_lines(run, graphs),
            f"driver, libraries and communication: about {outside / GIB:.2f} GiB (measured at tp 1)",
            *_notes(run, highest),
        ),
    )


def _activation_error(phase: Phase) -> int:
    return MEASURED_ERROR_BYTES if phase.measured else int(phase.total_bytes * UNMEASURED_ERROR)


def _non_torch(run: ProfileRun) -> tuple[int, int]:
    """Memory outside PyTorch, and its error."""
    recurrent = any(isinstance(kind, RecurrentKind) and not isinstance(kind, StateBuffer) for kind in run.kinds)
    size = CONTEXT_BYTES + 10 * MIB * (not run.second_runner) + STATE_LIBRARY_BYTES * recurrent // 2
    if run.tp * run.dp > 1:
        return size + COMMUNICATION_BYTES, COMMUNICATION_ERROR_BYTES
    return size, 10 * MIB


def _batch_line(run: ProfileRun) -> str:
    runner = "second" if run.second_runner else "first"
    mode = "eager" if run.eager else "compiled"
    return (
        f"profiling batch: {run.tokens:,} tokens (max_num_batched_tokens) of {run.requests:,} requests "
        f"(max_num_seqs), {mode}, {runner} model runner"
    )


def _notes(run: ProfileRun, highest: Phase) -> tuple[str, ...]:
    """What may make a start differ."""
    notes = []
    if highest.name == "compilation":
        notes.append("with a warm cache of compiled code the peak of the compilation does not come up")
    if run.sparse and run.facts.architecture_class is None and not run.rules.second_runner_runs_all:
        notes.append("the model's class is not known: taken for one that runs on the first model runner")
    if any(isinstance(kind, Latent) for kind in run.kinds) and not run.widths.qk_nope_head_dim:
        notes.append("widths of latent attention's heads are not known: its trial of keys and values is left out")
    return tuple(notes)
