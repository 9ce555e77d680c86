"""Floating-point operations of attention, counted from the rows that a layer keeps."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention import Shared
from kvplan.core.model import Architecture, Layer
from kvplan.core.part import Part

_USES = {"key": 1, "value": 1, "latent": 2, "rope": 1, "compressed": 2}
"""How often a query reads a part: a latent serves scores and values. Index keys have other heads: not counted."""


def attention_flops(architecture: Architecture, context_tokens: int, encoder_tokens: int = 0) -> int:
    """FLOPs of one new token at this context over all layers: 2 * query heads * row width for each row attended.

    For keys and values of one width that is the usual 4 * query heads * head_dim * context per layer. Sparse attention
    (DSA) reads fewer rows than it keeps, so its figure is an upper bound; softmax and rotary embeddings are left out.
    """
    return _flops(architecture, lambda part: part.rows(part.resident_tokens(context_tokens, encoder_tokens)))


def prompt_attention_flops(architecture: Architecture, prompt_tokens: int, encoder_tokens: int = 0) -> int:
    """FLOPs of a whole prompt under a causal mask: the sum of ``attention_flops`` over its tokens."""
    return _flops(architecture, lambda part: _prompt_rows(part, prompt_tokens, encoder_tokens))


def _flops(architecture: Architecture, rows_of: Callable[[Part], int]) -> int:
    if architecture.num_heads is None:
        return 0
    elements = 0
    for index in range(architecture.num_layers):
        for kind in _read_layer(architecture.layers, index):
            elements += sum(_USES.get(part.name, 0) * part.width * rows_of(part) for part in kind.parts())
    return 2 * architecture.num_heads * elements


def _read_layer(layers: tuple[Layer, ...], index: int) -> Layer:
    """The layer whose rows this one reads: itself, or the one that shares its cache with it."""
    shared = next((kind for kind in layers[index] if isinstance(kind, Shared)), None)
    if shared is None:
        return layers[index]
    if shared.source_layer is not None:
        return layers[shared.source_layer]
    return next((layer for layer in reversed(layers[:index]) if any(kind.parts() for kind in layer)), ())


def _prompt_rows(part: Part, prompt_tokens: int, encoder_tokens: int) -> int:
    """Rows that all tokens of a prompt attend, token t seeing the first t or the newest of a window."""
    if part.encoder:
        return prompt_tokens * part.rows(part.resident_tokens(prompt_tokens, encoder_tokens))
    limit = prompt_tokens if part.limit_tokens is None else min(part.limit_tokens, prompt_tokens)
    attended = limit * (limit + 1) // 2 + (prompt_tokens - limit) * limit + prompt_tokens * part.prefix_tokens
    return part.rows(attended)
