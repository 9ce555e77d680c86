"""Decode attention in bfloat16 as torch offers it: every backend, with grouped heads stated or folded.

*gqa* passes ``enable_gqa``; *folded* makes the query heads of a KV head so many query tokens, which is the same
attention without a mask and lets backends without grouped heads take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
Attention = Callable[[], Tensor]


def baselines(query: Tensor, keys: Tensor, values: Tensor, flex: bool) -> Iterator[tuple[str, Attention]]:
    """Named calls that attend from ``query`` [batch, heads, width] to [batch, kv_heads, tokens, width].

    Each returns [batch, heads, 1, width] or, folded, [batch, kv_heads, group, width]: the same numbers in the same
    order. A call raises RuntimeError where its backend does not take the shapes.
    """
    single = query.unsqueeze(2)
    folded = query.unflatten(1, (keys.shape[1], -1))
    for name, backend in BACKENDS.items():
        if name != "math":  # repeats the whole cache for every query head
            yield f"sdpa {name} gqa", _sdpa(backend, single, keys, values, True)
        yield f"sdpa {name} folded", _sdpa(backend, folded, keys, values, False)
    if flex:
        yield "flex_attention gqa", _flex(single, keys, values)


def _sdpa(backend: SDPBackend, query: Tensor, keys: Tensor, values: Tensor, grouped: bool) -> Attention:
    def call() -> Tensor:
        with sdpa_kernel(backend):
            attended: Tensor = scaled_dot_product_attention(query, keys, values, enable_gqa=grouped)
        return attended

    return call


def _flex(query: Tensor, keys: Tensor, values: Tensor) -> Attention:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def call() -> Tensor:
        attended: Tensor = compiled(query, keys, values, enable_gqa=True)
        return attended

    return call
