"""A model of a published config with its true cache geometry and everything else small.

What a cache layer stores (KV heads, head widths, windows, latent ranks, state sizes, the pattern of the layers) stays.
All else is shrunk in steps, and no step is believed: the shrunk model and the full-width one run side by side on
torch's meta device, and where a single tensor of a cache layer differs in shape, the step is taken back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import DynamicCache

from kvplan.core.attention import Shared
from kvplan.core.errors import UnsupportedError
from kvplan.core.model import Layer
from kvplan.runtime.meta_parameters import build_on_meta, class_and_config
from kvplan.runtime.verify.cpu_products import fast_products
from kvplan.runtime.verify.decoder_run import (
    decoder_of,
    encoder_argument,
    layer_tensors,
    module_tensors,
    new_cache,
    parts_of,
    run_decoder,
)
from kvplan.runtime.verify.shrink_steps import STEPS, cut_layers

Values = dict[str, Any]

_STATED_DTYPES = ("torch_dtype", "dtype", "quantization_config", "compression_config")
_TOWER = re.compile("vision|audio")
_PROBE_TOKENS, _PROBE_ENCODER_TOKENS = 5, 3
_LEAST_LAYERS = 2
"""Layers that a cut model keeps at least: one layer alone could not read another's cache."""

_MOST_RANDOM = 1 << 20
"""Elements of the largest weight that is drawn at random, which takes a CPU long; larger ones are zero."""

_MOST_PROBED = 1 << 30
"""Parameters of the largest model that is probed with real tensors, where code does not run on the meta device."""

_META, _CPU = torch.device("meta"), torch.device("cpu")

TAKEN_FOR_GRANTED = ("vocabulary", "experts", "feed-forward widths")
"""Steps far from any cache: not proved, where a probe needs real tensors and would be too large without them."""


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A model on a device with the first ``num_layers`` layers of the published one.

    ``values`` is its config. ``shrunk`` are the steps that left every cache tensor as it was, ``kept`` those that did
    not; ``probe`` says how that was found out.
    """

    model: Any
    values: Values
    num_layers: int
    shrunk: tuple[str, ...]
    kept: tuple[str, ...]
    probe: str

    @property
    def num_parameters(self) -> int:
        """Parameters of the decoder that runs."""
        return sum(parameter.numel() for parameter in decoder_of(self.model).parameters())


def in_dtype(values: Mapping[str, Any], dtype: str = "bfloat16", top: bool = True) -> Values:
    """The config with every dtype and every quantization removed, and ``dtype`` put at the top."""
    kept = {name: in_dtype(value, dtype, False) if isinstance(value, dict) else value for name, value in values.items()}
    kept = {name: value for name, value in kept.items() if name not in _STATED_DTYPES}
    return {**kept, "dtype": dtype} if top else kept


def build_skeleton(
    values: Mapping[str, Any], layers: tuple[Layer, ...], device: torch.device, *, whole: bool = False
) -> Skeleton:
    """The skeleton of a config on ``device``, in the dtype that the config states.

    ``layers`` are those that its spec claims: the first layers in which each of its kinds, and each of the code's,
    occurs are kept, or all of them where ``whole`` is asked for, where layers read each other's caches, or where spec
    and code disagree on the number. Raises UnsupportedError where transformers cannot build or run the model.
    """
    try:
        cut, num_layers = _cut(dict(values), layers, whole)
        shrunk, kept, probe = _shrink(cut)
        small = _apply(cut, shrunk)
        model = on_device(small, device)
    except UnsupportedError:
        raise
    except Exception as error:  # the models' code raises anything at all
        raise UnsupportedError(f"{_cannot('run')}: {first_line(error)}") from None
    return Skeleton(
        model=model, values=small, num_layers=num_layers, shrunk=tuple(shrunk), kept=tuple(kept), probe=probe
    )


def on_device(values: Values, device: torch.device) -> Any:
    """The model of a config with its decoder on ``device``, initialized; the rest stays on the meta device."""
    model = build_on_meta(values).eval()
    if device.type == "meta":
        return model
    decoder = decoder_of(model)
    decoder.to_empty(device=device)
    for parameter in decoder.parameters():
        if parameter.numel() > _MOST_RANDOM:
            parameter.data.zero_()
            parameter._is_hf_initialized = True
    decoder.initialize_weights()
    return model


def first_line(error: Exception) -> str:
    """What an exception of other people's code says, in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _cannot(verb: str) -> str:
    return f"transformers {transformers.__version__} cannot {verb} this model"


def _cut(values: Values, layers: tuple[Layer, ...], whole: bool) -> tuple[Values, int]:
    """The config with as many layers as are needed, and how many those are."""
    code = _code_layers(values)
    if whole or len(code) != len(layers) or any(isinstance(kind, Shared) for layer in layers for kind in layer):
        return values, len(layers)
    wanted = set(zip(layers, code))
    most = next(most for most in range(1, len(layers) + 1) if set(zip(layers[:most], code)) == wanted)
    most = min(max(most, _LEAST_LAYERS), len(layers))
    cut = cut_layers(values, most)
    return (cut, most) if _code_layers(cut) == code[:most] else (values, len(layers))


def _code_layers(values: Values) -> list[tuple[Any, ...]]:
    """The layers of the cache that transformers makes for a config: class and window of each; empty where it cannot."""
    _, config = class_and_config(values)
    try:
        layers = DynamicCache(config=config.get_text_config(decoder=True)).layers
    except (AttributeError, KeyError, TypeError):  # RWKV and MiniMax: caches of their own
        return []
    return [(type(layer).__name__, getattr(layer, "sliding_window", None)) for layer in layers]


def _shrink(values: Values) -> tuple[list[str], list[str], str]:
    """The names of the steps that change no cache tensor, those of the others, and how they were told apart.

    All at once, or else one by one.
    """
    device = _META
    granted: tuple[str, ...] = ()
    try:
        shapes = _shapes(values, device)
    except UnsupportedError:
        raise
    except Exception as error:  # code that looks at values, which meta tensors have not
        device, granted = _CPU, TAKEN_FOR_GRANTED
        _refuse_large(_apply(values, granted), error)
        shapes = _shapes(_apply(values, granted), device)
    words = "full-width code on the meta device" if device is _META else "full-width attention on the CPU"
    names = list(STEPS)
    if _keeps(_apply(values, names), shapes, device):
        return names, [], words
    shrunk: list[str] = [*granted]
    for name in names:
        if name not in shrunk and _keeps(_apply(values, [*shrunk, name]), shapes, device):
            shrunk.append(name)
    return shrunk, [name for name in names if name not in shrunk], words


def _refuse_large(values: Values, error: Exception) -> None:
    parameters = sum(parameter.numel() for parameter in decoder_of(build_on_meta(values)).parameters())
    if parameters > _MOST_PROBED:
        raise UnsupportedError(f"{_cannot('run')} without data: {first_line(error)}")


def _apply(values: Values, names: Iterable[str]) -> Values:
    """The config after the named steps, in every nested config too."""
    for name in names:
        values = _deeply(values, STEPS[name])
    return values


def _deeply(values: Values, step: Callable[[Values], Values]) -> Values:
    """The step on the innermost configs first; towers stay, as nothing of them runs."""
    inner = {name: value for name, value in values.items() if isinstance(value, dict) and not _TOWER.search(name)}
    return step({**values, **{name: _deeply(value, step) for name, value in inner.items()}})


def _keeps(values: Values, shapes: list[Any], device: torch.device) -> bool:
    """Whether a shrunk config builds and runs, and its cache is the one expected."""
    try:
        return _shapes(values, device) == shapes
    except Exception:  # raised for widths that do not go together
        return False


def _shapes(values: Values, device: torch.device) -> list[Any]:
    """Shapes and dtypes of every tensor in every layer of the cache."""
    model = on_device(values, device)
    encoder_tokens = _PROBE_ENCODER_TOKENS if encoder_argument(model) else 0
    cache = new_cache(model, encoder_tokens=encoder_tokens)
    with torch.no_grad(), fast_products(device):
        cache = run_decoder(model, _PROBE_TOKENS, cache, encoder_tokens=encoder_tokens, device=device)
    found = [*(layer for part in parts_of(cache) for layer in layer_tensors(part)), module_tensors(model)]
    return [[(tuple(tensor.shape), tensor.dtype) for tensor in layer] for layer in found]
