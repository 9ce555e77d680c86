"""A cache of many layers in plain torch: what any model of one's own can use, without transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.geometry import CacheChoice, PlacedKind, place_layers
from kvplan.core.model import Layer
from kvplan.runtime.layer_cache import LayerCache
from kvplan.runtime.masked_attention import Scoring, attend, attend_and_watch


class KVCache:
    """Keys and values of a stack of layers, in the formats and under the policy of ``choice``.

    ``layers`` are the calculator's: ``model.architecture.layers``, or ``[(FullAttention(...),)] * 32``. One step of a
    layer is one ``attend``; where the policy needs no attention, ``append`` and ``read`` do as well. Raises
    UnsupportedError where a layer cannot be stored so.
    """

    def __init__(self, layers: Sequence[Layer], choice: CacheChoice) -> None:
        self.choice = choice
        self._layers = [_layer_cache(placed, choice) for placed in place_layers(layers, choice.kv_format)]

    def __len__(self) -> int:
        """Layers, those without rows included."""
        return len(self._layers)

    def layer(self, index: int) -> LayerCache:
        """One layer's cache. Raises UsageError where the layer stores no rows."""
        found = self._layers[index]
        if found is None:
            raise UsageError(f"layer {index} stores no keys and values")
        return found

    def append(self, layer: int, *rows: Tensor) -> None:
        """Store new rows of each part, [batch, heads, tokens, width], and drop what the policy drops.

        Raises UsageError where the policy has to see attention: ``attend`` shows it.
        """
        cache = self.layer(layer)
        if cache.needs_attention:
            raise UsageError(f"the policy {self.choice.policy.name} needs attention", "call attend, not append")
        cache.append(*rows)
        cache.settle()

    def read(self, layer: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """All rows of each part of a layer, decoded; ``layer(index).positions()`` says where they stood."""
        return self.layer(layer).read(dtype)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        """One step: append, causal attention of the new queries over all that is held, and settle.

        ``query`` is [batch, query heads, tokens, width], the output [batch, query heads, tokens, value width].
        ``scale`` defaults to 1 / sqrt(width).
        """
        cache = self.layer(layer)
        keys, values = cache.append(key, value)
        scoring = Scoring(scale=query.shape[3] ** -0.5 if scale is None else scale)
        if not cache.needs_attention:
            output = attend(query, keys, values, cache.visibility(), scoring)
            cache.settle()
            return output
        output, watched = attend_and_watch(
            query,
            keys,
            values,
            cache.visibility(),
            scoring,
            stored_heads=keys.shape[1],
            recent_queries=cache.recent_queries,
        )
        cache.settle(watched)
        return output

    def stored_bytes(self) -> list[int]:
        """Bytes of every layer's stored tensors, 0 for layers without rows."""
        return [layer.stored_bytes if layer else 0 for layer in self._layers]


def _layer_cache(placed: tuple[PlacedKind, ...], choice: CacheChoice) -> LayerCache | None:
    """The cache of the one kind of a layer that stores rows; recurrent state is not this cache's business."""
    kinds = [item for item in placed if item.kind.parts()]
    if len(kinds) > 1:
        names = " and ".join(item.kind.kind for item in kinds)
        raise UnsupportedError(f"a layer of {names} keeps two caches", "store each kind as a layer of its own")
    return LayerCache(kinds[0], choice) if kinds else None
