"""A model's own decoder in transformers, run on random tokens, and the tensors that its cache holds afterwards.

Works on any device, ``meta`` among them: there tensors have shapes and dtypes only, and a model of any size runs in a
second.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING

_NO_ROWS = ("cumulative", "sliding_window", "device")
"""Attributes of a cache layer that hold no rows."""

_MODULE_STATES = ("recurrent_states", "conv1d_state")
"""Attributes of modules that hold state: RecurrentGemma's recurrent blocks."""

_STATELESS_TYPES = frozenset({"moe", "mlp"})


@dataclass(frozen=True, kw_only=True)
class HeldBytes:
    """What a cache holds: by layer, of the decoder's tokens and of the encoder's, and the state on the modules."""

    layers: tuple[int, ...]
    cross: tuple[int, ...] = ()
    modules: int = 0


def decoder_of(model: Any) -> Any:
    """The module that runs the decoder's layers: the language model of a wrapper, the decoder of an encoder-decoder."""
    inner = model.get_decoder()
    return inner if inner is not None else model.base_model


def new_cache(model: Any, static_tokens: int = 0, encoder_tokens: int = 0) -> Any:
    """The cache as ``generate`` makes it: dynamic, or static where ``static_tokens`` are given.

    None where ``generate`` makes none, or where a static cache has no such layers (DeepSeek-V4).
    """
    config = model.config.get_text_config(decoder=True)
    unknown = set(getattr(config, "layer_types", None) or ()) - {*STATIC_LAYER_TYPE_MAPPING, *_STATELESS_TYPES}
    generates = getattr(model, "_supports_default_dynamic_cache", None)  # a bare BartModel does not
    if (generates is not None and not generates()) or (static_tokens and unknown):
        return None

    def one(tokens: int) -> Any:
        return StaticCache(config=config, max_cache_len=tokens) if static_tokens else DynamicCache(config=config)

    if model.config.is_encoder_decoder:
        return EncoderDecoderCache(one(static_tokens), one(encoder_tokens))
    return one(static_tokens)


def run_decoder(
    model: Any, tokens: int, cache: Any, *, batch: int = 1, encoder_tokens: int = 0, device: str | torch.device = "meta"
) -> Any:
    """One forward pass over ``tokens`` new tokens of every sequence; the cache that it filled."""
    decoder = decoder_of(model)
    name = "cache_params" if "mamba" in type(model).__name__.lower() else "past_key_values"
    config = model.config.get_text_config(decoder=True)
    arguments: dict[str, Any] = {"input_ids": torch.randint(1, config.vocab_size, (batch, tokens), device=device)}
    if model.config.model_type == "rwkv":
        return decoder(**arguments, state=cache, use_cache=True).state
    arguments |= _encoder_states(model, cache, batch, encoder_tokens, device)
    output = decoder(**arguments, use_cache=True, **{name: cache})
    return cache if cache is not None else getattr(output, name)


def encoder_argument(model: Any) -> str | None:
    """How the decoder calls the states of an encoder, of a text or of images; None where it takes none."""
    if model.config.is_encoder_decoder:
        return "encoder_hidden_states"
    name = "cross_attention_states"
    return name if name in inspect.signature(decoder_of(model).forward).parameters else None


def _encoder_states(
    model: Any, cache: Any, batch: int, tokens: int, device: str | torch.device
) -> dict[str, torch.Tensor]:
    """What stands for the encoder: ``tokens`` of its last states, those of images with the prompt alone."""
    name = encoder_argument(model)
    if name is None or not tokens or (not model.config.is_encoder_decoder and cache.get_seq_length()):
        return {}
    config = model.config.get_text_config(decoder=True)
    width = getattr(model.config, "d_model", None) or config.hidden_size
    return {name: torch.randn(batch, tokens, width, dtype=model.dtype, device=device)}


def held_bytes(model: Any, cache: Any) -> HeldBytes:
    """Bytes of the distinct tensors in every layer of a cache that ``run_decoder`` has filled, all sequences."""
    own, *cross = ([distinct_bytes(layer) for layer in layer_tensors(part)] for part in parts_of(cache))
    return HeldBytes(
        layers=tuple(own),
        cross=tuple(cross[0]) if cross else (),
        modules=distinct_bytes(module_tensors(model)),
    )


def parts_of(cache: Any) -> tuple[Any, ...]:
    """The cache, or those of the decoder's and of the encoder's tokens."""
    if isinstance(cache, EncoderDecoderCache):
        return (cache.self_attention_cache, cache.cross_attention_cache)
    return (cache,)


def layer_tensors(cache: Any) -> list[list[torch.Tensor]]:
    """The tensors with rows or state, layer by layer."""
    if isinstance(cache, list):  # RWKV: one tensor per state, its last dimension is the layer
        return [cache]
    linear = getattr(cache, "linear_cache", [])  # MiniMax: beside the layers, which have a gap there
    holders = [(layer, linear[index : index + 1]) for index, layer in enumerate(cache.layers)]
    holders += [(None, linear[index : index + 1]) for index in range(len(cache.layers), len(linear))]
    return [[*tensors(layer), *tensors(beside)] for layer, beside in holders]


def tensors(holder: Any) -> Iterator[torch.Tensor]:
    """Every tensor with rows or state in a cache layer, in its dictionaries and lists too."""
    if isinstance(holder, torch.Tensor):
        if holder.dim():
            yield holder
    elif isinstance(holder, Mapping):
        for value in holder.values():
            yield from tensors(value)
    elif isinstance(holder, (list, tuple)):
        for value in holder:
            yield from tensors(value)
    elif hasattr(holder, "__dict__"):
        for name, value in vars(holder).items():
            if isinstance(value, (torch.Tensor, Mapping, list, tuple)) and not any(word in name for word in _NO_ROWS):
                yield from tensors(value)


def distinct_bytes(found: Iterable[torch.Tensor]) -> int:
    """Elements times their size, each tensor once: what views show, not the storage behind them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in found}.values())


def storage_bytes(found: Iterable[torch.Tensor]) -> int:
    """Bytes of the distinct storages behind tensors: what is really held."""
    storages = (tensor.untyped_storage() for tensor in found)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def module_tensors(model: Any) -> list[torch.Tensor]:
    """State that lies on modules instead of in the cache."""
    found = (getattr(module, name, None) for module in model.modules() for name in _MODULE_STATES)
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]
