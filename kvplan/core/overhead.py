"""What an engine holds on one rank besides weights and cache: activations, CUDA graphs, the runtime's own memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from kvplan.core.attention import HeadedKind, Latent, LayerKind
from kvplan.core.frozen import dataclass
from kvplan.core.recurrent import RecurrentKind, StateBuffer
from kvplan.core.units import GIB, cdiv
from kvplan.core.widths import Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTensor:
    """One tensor that is alive at a phase's peak; ``shape`` is its size with the values put in."""

    name: str
    shape: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A moment of an engine's start at which memory peaks.

    ``measured`` says that a real start-up peaked in this phase with these very tensors; ``source`` names the code.
    """

    name: str
    tensors: tuple[LiveTensor, ...]
    source: str
    measured: bool = True

    @property
    def total_bytes(self) -> int:
        """All tensors together."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What one rank holds besides weights and cache, when the engine sizes the cache.

    ``activation_bytes``        peak of tensors during the profiling batch
    ``cuda_graph_bytes``        subtracted for CUDA graphs before the cache is sized
    ``non_torch_bytes``         the driver's context, libraries and communication buffers
    ``captured_graph_bytes``    CUDA graphs that are captured afterwards, outside the memory that the engine asked for
    ``certainty``               ``rule`` or ``estimate``
    ``expected_error_bytes``    of the three together, either way; ``cuda_graph_error_bytes`` and
                                ``non_torch_error_bytes`` are what two of them have of it, where that is known
    ``lines``                   the equations with the values put in, and their sources
    """

    activation_bytes: int
    cuda_graph_bytes: int = 0
    non_torch_bytes: int = 0
    captured_graph_bytes: int = 0
    certainty: str
    expected_error_bytes: int
    cuda_graph_error_bytes: int = 0
    non_torch_error_bytes: int = 0
    lines: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """What is not left for the cache."""
        return self.activation_bytes + self.cuda_graph_bytes + self.non_torch_bytes


def live_tensor(name: str, *dimensions: int, element_bytes: int = 2) -> LiveTensor:
    """A tensor of the given dimensions; elements of 16 bits unless told otherwise."""
    shape = " x ".join(f"{dimension:,}" for dimension in dimensions)
    return LiveTensor(name=name, shape=f"{shape} x {element_bytes} B", size_bytes=prod(dimensions) * element_bytes)


def live_bytes(name: str, size_bytes: int) -> LiveTensor:
    """A buffer of a fixed size."""
    return LiveTensor(name=name, shape=f"{size_bytes:,} B", size_bytes=size_bytes)


def highest_phase(phases: Iterable[Phase]) -> Phase:
    """The phase that decides the peak: they follow one another, and what one frees the next takes."""
    return max(phases, key=lambda phase: phase.total_bytes)


def phase_lines(phases: Iterable[Phase]) -> tuple[str, ...]:
    """A line for each phase, and one for each tensor of the highest."""
    phases = tuple(phases)
    highest = highest_phase(phases)
    others = [f"{phase.name}: {phase.total_bytes / GIB:.2f} GiB" for phase in phases if phase is not highest]
    return (
        f"peak of activations, {highest.name}: {highest.total_bytes / GIB:.2f} GiB ({highest.source})",
        *(f"  {tensor.name}: {tensor.shape} = {tensor.size_bytes:,} B" for tensor in highest.tensors),
        *((f"  other phases: {'; '.join(others)}",) if others else ()),
    )


FORWARD_ERROR, GUESSED_ERROR = 0.5, 1.0
"""Share by which ``estimate_forward`` may be off, without and with estimated widths.

Kernels' workspaces are no one's rule. Of the profiling batches of vLLM 0.33, whose tensors are known, nine in ten are
within 0.4 (``tests/core/test_forward_estimate.py``), latent attention aside, of which vLLM tries 64k tokens of context.
"""

_FORWARD_SOURCE = "an estimate: tensors that a transformer block needs whatever the engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """One forward pass on one rank: ``tokens`` at once, of which ``logit_rows`` get logits.

    ``kinds`` are those of the rank's layers; ``tp`` ranks split heads, branches and experts; each gathers all logits.
    ``guessed`` says that ``widths`` are an estimate.
    """

    hidden_size: int
    num_heads: int
    widths: Widths
    kinds: tuple[LayerKind, ...]
    tokens: int
    logit_rows: int
    tp: int = 1
    guessed: bool = False


def estimate_forward(forward: Forward) -> Overhead:
    """The peak of activations of a forward pass where an engine has no rule of its own, and its expected error.

    The largest of: the dense block's branches, the chosen experts' branches and outputs, queries, keys and values
    before and after their rotation with the output of attention, a recurrent mixer's streams, the logits in 16 and 32
    bits with their probabilities; each beside the residual stream and its norm, [tokens, hidden] in 16 bits.
    Attention is taken to be fused: no matrix of scores.
    """
    phases = tuple(_forward_phases(forward))
    size = highest_phase(phases).total_bytes
    share = GUESSED_ERROR if forward.guessed else FORWARD_ERROR
    unknown = ("the model states no widths: they are estimated from its size",) if forward.guessed else ()
    return Overhead(
        activation_bytes=size,
        certainty="estimate",
        expected_error_bytes=int(size * share),
        lines=(
            f"a forward pass of {forward.tokens:,} tokens, attention fused, ± {share:.0%}",
            *phase_lines(phases),
            *unknown,
        ),
    )


def _forward_phases(forward: Forward) -> Iterator[Phase]:
    widths, tokens = forward.widths, forward.tokens
    stream = live_tensor("residual stream and its norm", 2, tokens, forward.hidden_size)
    for name, tensors in _blocks(forward):
        yield Phase(name=name, tensors=(*tensors, stream), source=_FORWARD_SOURCE, measured=False)
    logits = live_tensor(
        "logits in 16 and 32 bits, probabilities", forward.logit_rows, widths.vocab_size, element_bytes=10
    )
    yield Phase(name="logits", tensors=(logits, stream), source=_FORWARD_SOURCE, measured=False)


def _blocks(forward: Forward) -> Iterator[tuple[str, tuple[LiveTensor, ...]]]:
    """Name and tensors of each kind of block, besides the residual stream."""
    widths, tokens, tp = forward.widths, forward.tokens, forward.tp
    branches = 3 if widths.gated else 2
    if widths.intermediate_size:
        width = cdiv(widths.intermediate_size, tp)
        yield "dense block", (live_tensor("branches and their product", branches, tokens, width),)
    if widths.num_experts:
        rows, width = tokens * widths.experts_per_token, cdiv(widths.moe_intermediate_size, tp)
        outputs = live_tensor("outputs of the chosen experts", rows, forward.hidden_size)
        yield "experts", (live_tensor("branches and their product", branches, rows, width), outputs)
    for kind in forward.kinds:
        if elements := _mixer_elements(kind, forward):
            yield kind.kind.replace("_", " "), (live_tensor("streams of the mixer", tokens, elements),)


def _mixer_elements(kind: LayerKind, forward: Forward) -> int:
    """Elements of one token in the mixer of a layer on one rank; 0 where the kind has none."""
    heads = cdiv(forward.num_heads, forward.tp)
    if isinstance(kind, HeadedKind):
        kv_heads, width = cdiv(kind.num_kv_heads, forward.tp), kind.head_dim
        v_width = kind.v_head_dim or width
        return heads * (2 * width + v_width) + kv_heads * (2 * width + v_width)
    if isinstance(kind, Latent):
        rotary, widths = kind.qk_rope_head_dim, forward.widths
        return heads * 2 * (widths.qk_nope_head_dim + rotary + widths.v_head_dim) + kind.kv_lora_rank + rotary
    if isinstance(kind, RecurrentKind) and not isinstance(kind, StateBuffer):
        return cdiv(12 * forward.hidden_size, forward.tp)
    return 0
