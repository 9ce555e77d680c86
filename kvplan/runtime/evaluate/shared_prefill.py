"""One prefill for all methods that do not watch the attention: their rows come out of it the same.

A pass over an empty cache attends to the rows as they came. So a format, a window or age tiers compress rows that do
not depend on them, and a prompt is read once, whatever the number of methods. Policies that choose tokens by attention
must see it, and presses of kvpress change it: they read the prompt themselves.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.transformers_cache import CompressedCache, CompressedHybridLayer, CompressedLayer


class SharedPrefill:
    """The prompts ``ids`` [batch, tokens], read when the first method asks and for as many methods as can share it.

    It holds the rows of all layers as they came, beside the cache of the method that is measured: one uncompressed
    cache of these prompts, in what the model computes in.
    """

    def __init__(self, handle: ModelHandle, ids: Tensor) -> None:
        self._handle, self._ids = handle, ids
        self._recording: _Recording | None = None

    def cache_of(self, method: Method, rows: slice = slice(None)) -> tuple[Cache, Tensor]:
        """The method's cache after the prompts, and the likeliest next token of each, [batch, 1].

        ``rows`` are the prompts that the method takes at once: all of them where it takes batches. Raises
        UnsupportedError where the model cannot have such a cache.
        """
        cache = self._handle.new_cache(method)
        if not (method.takes_batches and _takes_rows(cache)):
            return cache, self._handle.prefill(self._ids[rows], cache)
        self._recording = self._recording or _Recording(self._handle, self._ids)
        self._recording.play(cache)
        return cache, self._recording.next_token


class _Recording:
    """What one prefill put into each layer: rows where they are compressed, else the layer itself."""

    def __init__(self, handle: ModelHandle, ids: Tensor) -> None:
        cache = handle.new_cache(Method())
        self._rows = {at: _record(layer) for at, layer in enumerate(cache.layers) if isinstance(layer, CompressedLayer)}
        self.next_token = handle.prefill(ids, cache)
        self._others = {at: layer for at, layer in enumerate(cache.layers) if at not in self._rows}

    def play(self, cache: Cache) -> None:
        """Put the rows into an empty cache, which compresses them as it would have in the prefill."""
        with torch.inference_mode():
            for at, updates in self._rows.items():
                for keys, values in updates:
                    cache.layers[at].fill(keys, values)
            for at, layer in self._others.items():
                cache.layers[at] = deepcopy(layer)


def _takes_rows(cache: Cache) -> bool:
    """Whether rows are all that it needs: no attention, and no recurrent state in a compressed layer."""
    return (
        isinstance(cache, CompressedCache)
        and not cache.needs_attention
        and not any(isinstance(layer, CompressedHybridLayer) for layer in cache.layers)
    )


def _record(layer: CompressedLayer) -> list[tuple[Tensor, Tensor]]:
    """The list to which the layer's updates will be added."""
    taken: list[tuple[Tensor, Tensor]] = []
    update = layer.update

    def recording(keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        taken.append((keys, values))
        return update(keys, values, *args, **kwargs)

    layer.update = recording  # type: ignore[assignment,method-assign]
    return taken
