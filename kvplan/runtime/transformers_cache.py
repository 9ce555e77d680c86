"""A cache for transformers 5 that stores the compressed form alone: formats, policies and age tiers.

    cache = CompressedCache.from_words(model.config, kv_dtype="int4", policy="h2o:keep=0.2")
    with attending(model, cache):
        model.generate(**inputs, past_key_values=cache)

``attending`` is needed only for policies that choose tokens; it does no harm elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from kvplan.core.attention import FullAttention, HeadedKind, Latent, LayerKind, NoCache, SlidingWindow
from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.geometry import CacheChoice, PlacedKind, place_layers
from kvplan.core.model import Layer
from kvplan.core.recurrent import Mamba1
from kvplan.policies.tiers import AgeTiers
from kvplan.runtime.attention import active_cache
from kvplan.runtime.codec import Rows
from kvplan.runtime.layer_cache import LayerCache, chooses_tokens
from kvplan.runtime.selectors import selector_of
from kvplan.runtime.words import parse_choice


class CompressedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One attention layer: transformers' layer interface over a ``LayerCache``, which is built from the first rows.

    ``placed`` is the layer's place, formats and kind, of which only the window counts: heads and widths are those of
    the rows. ``latent_widths`` are those of a latent row and its rotary key in models that cache latents.
    """

    is_compileable = False
    supports_early_init = False

    def __init__(self, placed: PlacedKind, choice: CacheChoice, latent_widths: tuple[int, int] | None) -> None:
        super().__init__()
        self._placed, self._choice, self._latent_widths = placed, choice, latent_widths
        self.cache: LayerCache | None = None
        self.window = placed.kind.window_tokens
        self.is_sliding = self.window is not None
        self.chooses = chooses_tokens(choice.policy)
        self.padding: Tensor | None = None
        self.special: Tensor | None = None

    @property
    def is_croppable(self) -> bool:
        """Whether ``crop`` can take back the newest tokens: while nothing was dropped or moved to another tier."""
        full = self.window is None or self.get_seq_length() <= self.window
        return full and not self.chooses and not isinstance(self._choice.policy, AgeTiers)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Build the store for rows of these shapes. Raises UnsupportedError where the format cannot hold them."""
        self._build(key_states, value_states)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take new rows and return all that the new queries may look at. Raises UsageError outside ``attending``."""
        if self.chooses and active_cache() is None:
            raise UsageError(
                f"the policy {self._choice.policy.name} chooses tokens, which the model's own attention cannot know",
                "run the model inside kvplan.runtime.attention.attending(model, cache)",
            )
        past = self._past_tokens()
        cache = self._take(key_states, value_states)
        keys, values = cache.append(key_states, value_states)
        if self.chooses:
            return keys, values
        cache.settle()
        visible = past + key_states.shape[2]
        return keys[:, :, -visible:], values[:, :, -visible:]

    def fill(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the rows of a prompt that was read with another cache, to which nothing attends any more.

        An empty layer holds afterwards what ``update`` and the model's attention would have left in it. Raises
        RuntimeError where the policy must see that attention.
        """
        cache = self._take(key_states, value_states)
        cache.append(key_states, value_states)
        cache.settle()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(tokens, position of the first): those of ``update``, or all positions where each head holds others."""
        past = self.get_seq_length() if self.chooses else self._past_tokens()
        return past + query_length, self.get_seq_length() - past

    def get_seq_length(self) -> int:
        """Tokens seen, whether they are still held or not."""
        return 0 if self.cache is None else self.cache.seen_tokens

    def get_max_length(self) -> int:
        """The window, or -1: there is no maximum."""
        return -1 if self.window is None else self.window

    def reset(self) -> None:
        """Forget everything."""
        self.cache = self.padding = self.special = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the beams at ``beam_idx``."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take the sequences at ``indices``."""
        if self.cache is not None:
            self.cache.select_sequences(indices)
        self.padding = None if self.padding is None else self.padding[indices.to(self.padding.device)]
        self.special = None if self.special is None else self.special[indices.to(self.special.device)]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence ``repeats`` times, one after another."""
        if self.cache is not None and self.cache.num_tokens:
            self.batch_select_indices(torch.arange(self.cache.batch_size).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest ``-tokens_to_remove`` tokens. Raises UnsupportedError where tokens have been dropped."""
        if tokens_to_remove > 0:
            raise UsageError(f"crop takes a negative number of tokens to remove, not {tokens_to_remove}")
        if tokens_to_remove and self.cache is not None:
            self.cache.crop(-tokens_to_remove)

    def offload(self) -> None:
        """Not offered: the compressed rows stay where they were computed. Raises UnsupportedError."""
        raise UnsupportedError("a compressed cache is not offloaded", "leave offloading out")

    def _take(self, keys: Tensor, values: Tensor) -> LayerCache:
        """The store for these rows, which knows the padding and the special tokens of this step."""
        cache = self.cache or self._build(keys, values)
        cache.padding, cache.special = self.padding, self.special
        return cache

    def _build(self, keys: Tensor, values: Tensor) -> LayerCache:
        self.cache = LayerCache(replace(self._placed, kind=self._kind_of(keys, values)), self._choice)
        self.is_initialized = True
        return self.cache

    def _past_tokens(self) -> int:
        """Tokens held that a new query may look at, without those that it computes itself."""
        held = 0 if self.cache is None else self.cache.num_tokens
        return held if self.window is None else min(held, self.window - 1)

    def _kind_of(self, keys: Tensor, values: Tensor) -> LayerKind:
        heads, widths = keys.shape[1], (keys.shape[3], values.shape[3])
        if heads == 1 and widths == self._latent_widths:
            return Latent(kv_lora_rank=widths[0], qk_rope_head_dim=widths[1], window=self.window)
        kind = self._placed.kind
        assert isinstance(kind, HeadedKind)
        return replace(kind, num_kv_heads=heads, head_dim=widths[0], v_head_dim=widths[1])


class CompressedHybridLayer(LinearAttentionLayer, CompressedLayer):  # type: ignore[misc]
    """A layer of attention beside a state of fixed size (Falcon-H1, Hymba): transformers keeps the state as it is."""

    is_compileable = False
    is_croppable = False

    def __init__(self, *compressed: Any, number_of_states: int = 1) -> None:
        CompressedLayer.__init__(self, *compressed)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)

    def get_max_length(self) -> int:
        """The window of the attention, or -1."""
        return CompressedLayer.get_max_length(self)

    def reset(self) -> None:
        """Forget everything."""
        LinearAttentionLayer.reset(self)
        CompressedLayer.reset(self)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the beams at ``beam_idx``."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take the sequences at ``indices``, rows and state."""
        LinearAttentionLayer.reorder_cache(self, indices)
        CompressedLayer.batch_select_indices(self, indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Raise UnsupportedError: a state cannot go back."""
        raise UnsupportedError("the state of a recurrent layer cannot go back", "leave out assisted decoding")

    def offload(self) -> None:
        """Raise UnsupportedError, as every compressed layer does."""
        CompressedLayer.offload(self)


class CompressedCache(Cache):  # type: ignore[misc]
    """Every attention layer of a decoder in compressed form; layers of other kinds are transformers' own.

    Those are recurrent states, the sparse attention of DeepSeek-V3.2 (``indexed_attention``) and DeepSeek-V4's
    compressed streams. ``config`` is the model's; ``choice`` the calculator's. What is stored between steps is in
    ``stored_tensors``, to the byte what ``kvplan size`` says of the ``compressed_layers``. Raises UnsupportedError for
    a model that has none.
    """

    def __init__(self, config: Any, choice: CacheChoice) -> None:
        plain = DynamicCache(config=config).layers
        placed = place_layers([_kinds(layer) for layer in plain], choice.kv_format)
        decoder = config.get_text_config(decoder=True)
        if getattr(decoder, "cross_attention_layers", None):
            raise UnsupportedError("layers that attend to images take their rows out of the cache themselves")
        rank, rope = getattr(decoder, "kv_lora_rank", None), getattr(decoder, "qk_rope_head_dim", None)
        widths = (rank, rope) if rank and rope else None
        super().__init__(layers=[_compress(layer, kinds[0], choice, widths) for layer, kinds in zip(plain, placed)])
        if not self.compressed_layers:
            names = ", ".join(sorted({type(layer).__name__ for layer in plain}))
            raise UnsupportedError(f"no layer of this model keeps keys and values that can be compressed: {names}")
        self.choice = choice
        self.chooses = chooses_tokens(choice.policy)

    @classmethod
    def from_words(
        cls,
        config: Any,
        kv_dtype: str = "auto",
        policy: str = "none",
        native: str | None = None,
        *,
        native_layers: Iterable[int] = (),
        native_windows: bool = False,
    ) -> CompressedCache:
        """The cache that ``--kv-dtype`` and ``--policy`` name; ``native`` is the model's dtype (``bf16``), if not its
        config's. Raises UnknownNameError or UsageError."""
        native = native or _native_format(config)
        choice = parse_choice(kv_dtype, policy, native, native_layers=native_layers, native_windows=native_windows)
        return cls(config, choice)

    @property
    def is_linear(self) -> list[bool]:
        """Whether each layer is recurrent alone; transformers asks this to find a layer with attention."""
        return [
            linear and not isinstance(layer, CompressedLayer) for linear, layer in zip(super().is_linear, self.layers)
        ]

    @property
    def needs_attention(self) -> bool:
        """Whether the policy chooses tokens by what the queries look at."""
        return self.chooses and selector_of(self.choice.policy).needs_attention

    def layer_in_step(self, index: int | None) -> LayerCache | None:
        """The layer's cache, if its rows were appended and wait for attention."""
        if index is None or index >= len(self.layers):
            return None
        layer = self.layers[index]
        cache = layer.cache if isinstance(layer, CompressedLayer) else None
        return cache if cache is not None and cache.in_step else None

    def note_padding(self, attention_mask: Tensor | None) -> None:
        """``attention_mask`` [batch, positions seen after this step], 0 where a position is padding; None without."""
        padding = None if attention_mask is None or attention_mask.dim() != 2 else ~attention_mask.bool()
        if padding is not None and not padding.any():
            padding = None
        for layer in self.compressed_layers:
            layer.padding = padding

    def mark_special(self, marks: Tensor) -> None:
        """Mark special tokens by position, [batch, positions] of bool; positions after them are not special."""
        for layer in self.compressed_layers:
            layer.special = marks.bool()

    @property
    def compressed_layers(self) -> list[CompressedLayer]:
        """The layers that this cache compresses."""
        return [layer for layer in self.layers if isinstance(layer, CompressedLayer)]

    @property
    def layer_caches(self) -> dict[int, LayerCache]:
        """Layer index -> its cache, once it has seen tokens."""
        return {
            index: layer.cache
            for index, layer in enumerate(self.layers)
            if isinstance(layer, CompressedLayer) and layer.cache is not None
        }

    @property
    def stored_tensors(self) -> Rows:
        """Every stored tensor that prices count, as ``3.key.codes``."""
        return {f"{i}.{name}": held for i, cache in self.layer_caches.items() for name, held in cache.tensors().items()}

    @property
    def stored_bytes(self) -> int:
        """Bytes of ``stored_tensors``."""
        return sum(cache.stored_bytes for cache in self.layer_caches.values())


def _compress(layer: Any, placed: PlacedKind, choice: CacheChoice, latent_widths: tuple[int, int] | None) -> Any:
    """The compressed layer in place of one of transformers' own, or that one, where it is of another kind."""
    if isinstance(layer, LinearAttentionLayer) and isinstance(layer, DynamicLayer):
        return CompressedHybridLayer(placed, choice, latent_widths, number_of_states=layer.number_of_states)
    if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
        return CompressedLayer(placed, choice, latent_widths)
    return layer


def _kinds(layer: Any) -> Layer:
    """What one of transformers' layers is to the calculator; heads and widths are filled in when its first rows come.

    A chunk is a window here: transformers stores both alike, and masks tell them apart. A state is that of some
    recurrent layer: formats that skip the first and last layers ask only whether there is one.
    """
    state: Layer = ()
    if isinstance(layer, LinearAttentionLayer):
        state = (Mamba1(intermediate_size=1, state_size=1, conv_kernel=2),)
    if not isinstance(layer, DynamicLayer):
        return state or (NoCache(),)
    window = getattr(layer, "sliding_window", None)
    if window is None:
        return (FullAttention(num_kv_heads=1, head_dim=1), *state)
    return (SlidingWindow(num_kv_heads=1, head_dim=1, window=window), *state)


def _native_format(config: Any) -> str:
    """The format of the model's own dtype. Raises UsageError where the config does not say it."""
    dtype = getattr(config.get_text_config(decoder=True), "dtype", None) or getattr(config, "dtype", None)
    name = str(dtype).removeprefix("torch.")
    if name not in _NATIVE:
        raise UsageError(f"the model's dtype is {name}, which is no cache format", f"state it: {', '.join(_NATIVE)}")
    return _NATIVE[name]


_NATIVE = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
