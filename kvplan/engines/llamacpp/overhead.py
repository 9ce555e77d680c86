"""llama.cpp's compute buffer: the tensors of the largest graph, a micro-batch of tokens in 32 bits.

llama.cpp reserves it before it serves and shares memory between tensors that do not live together, so the buffer is the
largest of a few sums. Fitted to what llama.cpp 0.5.0 said of 176 models on a CPU
(``tests/vectors/llamacpp_0.5_compute.json``): half of them within 1.5%, nine in ten within 11%; indexers of sparse
attention take up to twice as much.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.core.attention import CrossAttention, HeadedKind, IndexKeys, Latent, LayerKind
from kvplan.core.engine import ModelFacts
from kvplan.core.errors import UnsupportedError
from kvplan.core.overhead import LiveTensor, Overhead, Phase, highest_phase, live_tensor, phase_lines
from kvplan.core.units import GIB
from kvplan.core.widths import Widths

FIT_MARGIN_BYTES = GIB
"""What llama.cpp itself leaves free on a device for its runtime when it fits layers (``--fit``)."""

_SOURCE = "fitted, src/llama-context.cpp graph_reserve"
_ERROR, _INDEXER_ERROR = 0.12, 1.0


def overhead(
    facts: ModelFacts, widths: Widths, kinds: Iterable[LayerKind], ubatch_tokens: int, stream_tokens: int, devices: int
) -> Overhead:
    """Compute buffer of one device, and the margin for its runtime.

    ``stream_tokens`` are the cells of one sequence's stream; ``devices`` the accelerators, 0 for a CPU. Raises
    UnsupportedError for encoder-decoder models, whose position bias no rule covers.
    """
    kinds = tuple(dict.fromkeys(kinds))
    if any(isinstance(kind, CrossAttention) for kind in kinds):
        raise UnsupportedError("kvplan has no rule for llama.cpp's compute buffer of encoder-decoder models", None)
    phases = compute_phases(facts, widths, kinds, ubatch_tokens, stream_tokens)
    size = highest_phase(phases).total_bytes
    error = _INDEXER_ERROR if any(isinstance(kind, IndexKeys) for kind in kinds) else _ERROR
    return Overhead(
        activation_bytes=size,
        non_torch_bytes=FIT_MARGIN_BYTES if devices else 0,
        certainty="estimate",
        expected_error_bytes=int(size * error) + (FIT_MARGIN_BYTES // 2 if devices else 0),
        lines=(*phase_lines(phases), *((f"runtime: {FIT_MARGIN_BYTES / GIB:.0f} GiB left free",) if devices else ())),
    )


def compute_phases(
    facts: ModelFacts, widths: Widths, kinds: Iterable[LayerKind], tokens: int, stream_tokens: int
) -> tuple[Phase, ...]:
    """The sums that the buffer is the largest of: logits, feed-forward, attention."""
    hidden, mask = facts.hidden_size, live_tensor("mask (tokens x cells)", tokens, stream_tokens)
    logits = live_tensor("logits and hidden states", tokens, widths.vocab_size + 2 * hidden, element_bytes=4)
    feed_forwards = {widths.intermediate_size, widths.experts_per_token * widths.moe_intermediate_size}
    found: list[tuple[str, tuple[LiveTensor, ...]]] = [("output", (logits,))]
    found += [("feed-forward", _feed_forward(widths, hidden, width, tokens, mask)) for width in feed_forwards if width]
    found += [("attention", (_attention(kind, facts, tokens), mask)) for kind in kinds if _attends(kind)]
    return tuple(Phase(name=name, tensors=tensors, source=_SOURCE, measured=False) for name, tensors in found)


def _feed_forward(widths: Widths, hidden: int, width: int, tokens: int, mask: LiveTensor) -> tuple[LiveTensor, ...]:
    """Gate, up and their product with four rows of the residual stream; without a gate two and three."""
    if widths.gated:
        return live_tensor("branches and residuals", tokens, 3 * width + 4 * hidden, element_bytes=4), mask
    return (live_tensor("branches and residuals", tokens, 2 * width + 3 * hidden, element_bytes=4),)


def _attends(kind: LayerKind) -> bool:
    return isinstance(kind, (HeadedKind, Latent))


def _attention(kind: LayerKind, facts: ModelFacts, tokens: int) -> LiveTensor:
    """Queries and outputs; latent attention's are as wide as the latent, for every head."""
    heads = facts.num_heads or 1
    if isinstance(kind, Latent):
        width = 3 * heads * kind.kv_lora_rank + facts.hidden_size
    else:
        assert isinstance(kind, HeadedKind)
        width = 2 * heads * kind.head_dim + 3 * facts.hidden_size
    return live_tensor("queries, outputs and residuals", tokens, width, element_bytes=4)
