"""Widths for models that state none: from their parameter counts, or from usual proportions."""

from __future__ import annotations

from kvplan.core.model import Architecture, Parameters
from kvplan.core.widths import Widths

_CHOSEN = 8
"""Experts that a token is taken to use where the model does not say: what most published mixtures choose."""

_USUAL_VOCABULARY, _USUAL_RATIO = 128 * 1024, 4
"""Vocabulary, and feed-forward width by hidden size, where not even parameter counts are known."""


def estimate_widths(architecture: Architecture) -> Widths:
    """Widths that agree with the parameter counts: an estimate, for activations alone.

    Feed-forward blocks are taken for gated ones (three matrices); for plain ones that makes the width two thirds, and
    the memory of their branches, three for gated and two for plain blocks, comes out alike.
    """
    parameters, hidden = architecture.parameters, architecture.hidden_size
    if parameters is None:
        return Widths(vocab_size=_USUAL_VOCABULARY, intermediate_size=_USUAL_RATIO * hidden)
    block = 3 * hidden * architecture.num_layers
    expert, num_experts = _experts(parameters, block)
    return Widths(
        vocab_size=max(1, parameters.embedding // hidden),
        intermediate_size=parameters.mlp // block,
        num_experts=num_experts,
        experts_per_token=min(_CHOSEN, num_experts),
        moe_intermediate_size=expert,
        tied_embeddings=not parameters.output_head,
    )


def _experts(parameters: Parameters, block: int) -> tuple[int, int]:
    """Width and number of routed experts, as if each token chose ``_CHOSEN`` of them."""
    if not parameters.experts:
        return 0, 0
    total = parameters.experts // block
    rest = parameters.total - parameters.experts
    chosen = (parameters.active - rest) // block if parameters.active else 0
    width = max(1, (chosen if 0 < chosen <= total else total // 16) // _CHOSEN)
    return width, max(_CHOSEN, total // width)
