"""The attention named ``kvplan`` in transformers: right for caches with gaps, and it shows policies the weights.

A model's own attention believes that the tokens of a cache are the newest ones, without a gap. Where a policy chooses
tokens, each head holds others. So ``attending`` switches the decoder to this attention and back: masks come from
transformers' own mask code over all positions seen, and each head looks up the columns of the tokens that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kvplan.core.errors import UnsupportedError
from kvplan.runtime.layer_cache import LayerCache
from kvplan.runtime.masked_attention import Scoring, Visibility, attend, attend_and_watch

if TYPE_CHECKING:
    from kvplan.runtime.transformers_cache import CompressedCache

NAME = "kvplan"

_ACTIVE: ContextVar[CompressedCache | None] = ContextVar("kvplan_cache", default=None)


@contextmanager
def attending(model: PreTrainedModel, cache: CompressedCache) -> Iterator[CompressedCache]:
    """Run ``model`` with ``cache`` inside: the decoder attends as the cache's policy requires, and as before after it.

    A policy that keeps everything, or drops by age alone, leaves the model's own attention in place. Raises
    UnsupportedError for models that do not take an attention by name, or whose layers read other layers' caches.
    """
    if not cache.chooses:
        yield cache
        return
    config = model.config.get_text_config(decoder=True)
    _check(model, config, cache)
    before = config._attn_implementation
    config._attn_implementation = NAME
    token = _ACTIVE.set(cache)
    try:
        yield cache
    finally:
        _ACTIVE.reset(token)
        config._attn_implementation = before


def active_cache() -> CompressedCache | None:
    """The cache of the innermost ``attending``."""
    return _ACTIVE.get()


def kvplan_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over the rows that the layer's cache just returned, after which the layer settles.

    Attention that is not over the cache (towers, cross-attention) is torch's own, as under ``sdpa``.
    """
    cache = _ACTIVE.get()
    layer = cache.layer_in_step(getattr(module, "layer_idx", None)) if cache is not None else None
    if layer is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, softcap=softcap, **kwargs
        )
        return output
    if kwargs.get("position_bias") is not None:
        raise UnsupportedError("policies that choose tokens do not know models with a position bias")
    scoring = Scoring(scale=query.shape[3] ** -0.5 if scaling is None else scaling, softcap=softcap, sinks=s_aux)
    sight = _with_mask(layer.visibility(), attention_mask)
    return _attend_and_settle(layer, query, key, value, sight, scoring).transpose(1, 2).contiguous(), None


def kvplan_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """transformers' own sdpa mask over all positions seen; the cache learns which of them are padding."""
    cache = _ACTIVE.get()
    if cache is not None:
        cache.note_padding(attention_mask)
    mask: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    return mask


def _attend_and_settle(
    layer: LayerCache, query: Tensor, key: Tensor, value: Tensor, sight: Visibility, scoring: Scoring
) -> Tensor:
    if not layer.needs_attention:
        output = attend(query, key, value, sight, scoring)
        layer.settle()
        return output
    output, watched = attend_and_watch(
        query,
        key,
        value,
        sight,
        scoring,
        stored_heads=layer.parts[0].num_heads,
        recent_queries=layer.recent_queries,
    )
    layer.settle(watched)
    return output


def _with_mask(sight: Visibility, mask: Tensor | None) -> Visibility:
    """transformers' mask, which knows windows, chunks, padding and images; without one, all is plainly causal."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask >= 0  # an additive mask of the caller's own
    return Visibility(positions=sight.positions, first_query=sight.first_query, mask=mask)


def _check(model: PreTrainedModel, config: Any, cache: CompressedCache) -> None:
    ours = cache.compressed_layers
    others = {type(layer).__name__ for layer in cache.layers if isinstance(layer, DynamicLayer) and layer not in ours}
    if others:
        raise UnsupportedError(
            f"{type(model).__name__} has layers whose tokens no policy can choose: {', '.join(sorted(others))}",
            "use the policy none, or tiers",
        )
    if not model._can_set_attn_implementation():
        raise UnsupportedError(
            f"{type(model).__name__} does not take an attention by name, so no policy can choose its tokens",
            "use the policy none, or tiers",
        )
    if model.config.is_encoder_decoder:
        raise UnsupportedError(
            f"{type(model).__name__} has an encoder, and no policy can choose tokens of such a decoder",
            "use the policy none, or tiers",
        )
    if "reuse" in (getattr(config, "kv_sharing_modes", None) or ()):
        raise UnsupportedError(
            f"layers of {type(model).__name__} read other layers' caches, so no policy can choose their tokens",
            "use the policy none, or tiers",
        )


AttentionInterface.register(NAME, kvplan_attention)
AttentionMaskInterface.register(NAME, kvplan_mask)
