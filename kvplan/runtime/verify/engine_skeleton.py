"""A small config of a published one for a real engine: every layer and every cache width stays, the weights shrink.

An engine's code is not at hand here, so no step is tried on it: a step stays where kvplan reads the same layers out of
the config before and after it. Where kvplan is blind to a width, the engine is not, and its figures will differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvplan.core.errors import KvplanError, UnsupportedError
from kvplan.core.model import Model
from kvplan.runtime.verify.shrink_steps import STEPS, cut_layers
from kvplan.specs.config_json import read_config
from kvplan.specs.published_config import published_config

Values = dict[str, Any]
Step = Callable[[Values], Values]

MOST_WEIGHT_BYTES = 6 << 30
"""Weights of a skeleton that keeps all layers; one with more loses layers."""

_LEAVE_OUT = ("auto_map", "quantization_config", "compression_config")
_WEIGHT_BYTES = 2
_HEADS, _HIDDEN = "num_attention_heads", "hidden_size"


@dataclass(frozen=True, kw_only=True)
class ConfigSkeleton:
    """``values`` for the engine; ``model`` is what kvplan predicts for it: the layers that the model's spec claims.

    Its other facts (heads, hidden size) are those of the skeleton. ``whole`` says that no layer is missing.
    """

    values: Values
    model: Model
    num_layers: int
    whole: bool

    @property
    def weight_bytes(self) -> int:
        """What its weights take, about."""
        return _weight_bytes(self.model)


def read_published(model: Model) -> Model:
    """The model as its published config has it. Raises UnsupportedError, with the reason, where there is none."""
    return _read(published_values(model), model)


def published_values(model: Model) -> Values:
    """The published config, without code and quantization. Raises UnsupportedError where there is none."""
    published = published_config(model)
    if published.values is None:
        raise UnsupportedError(published.reason)
    return {name: value for name, value in published.values.items() if name not in _LEAVE_OUT}


def config_skeleton(model: Model, text_classes: Mapping[str, str]) -> ConfigSkeleton:
    """The skeleton of a model's published config.

    ``text_classes`` name the engine's class for the text model inside a multimodal one, by the latter's class. Raises
    UnsupportedError where there is no published config.
    """
    values = _text_only(published_values(model), model, text_classes)
    for step in _steps():
        small = _deeply(values, step)
        if _layers(small, model) == _layers(values, model):
            values = small
    whole = _read(values, model).architecture.num_layers
    values, num_layers = _fitting(values, model)
    read = _read(values, model)
    kept = None if num_layers == whole else num_layers  # a spec with too many layers keeps them all
    claimed = replace(read.architecture, layers=model.architecture.layers[:kept], draft_layers=())
    return ConfigSkeleton(
        values=values,
        model=replace(read, name=model.name, dtype=model.dtype, architecture=claimed),
        num_layers=num_layers,
        whole=num_layers == whole,
    )


def _steps() -> tuple[Step, ...]:
    """The steps that are tried, in order."""
    widths = ("query heads", "hidden size")
    return (*(step for name, step in STEPS.items() if name not in widths), _narrow_heads_and_residual)


def _narrow_heads_and_residual(values: Values) -> Values:
    """Few query heads and a narrow residual stream.

    Where the config states no width of a head, some of the engine's classes take the quotient and no stated width:
    both shrink alike then.
    """
    narrow = STEPS["query heads"](values)
    if values.get("head_dim") or values.get("kv_lora_rank"):
        return STEPS["hidden size"](narrow)
    heads, hidden, few = values.get(_HEADS), values.get(_HIDDEN), narrow.get(_HEADS)
    if not (isinstance(heads, int) and isinstance(hidden, int) and isinstance(few, int)) or hidden % heads:
        return values
    return {**values, _HEADS: few, _HIDDEN: few * (hidden // heads)}


def _text_only(values: Values, model: Model, text_classes: Mapping[str, str]) -> Values:
    """The text model of a multimodal config, where the engine has a class for it and the layers are the same."""
    text = values.get("text_config")
    text_class = text_classes.get((values.get("architectures") or [""])[0])
    if not isinstance(text, dict) or text_class is None:
        return values
    alone = {**text, "architectures": [text_class]}
    return alone if _layers(alone, model) == _layers(values, model) else values


def _fitting(values: Values, model: Model) -> tuple[Values, int]:
    """The config with as many layers as its weights leave room for, and how many those are."""
    read = _read(values, model)
    architecture, layers, size = read.architecture, read.architecture.num_layers, _weight_bytes(read)
    if size <= MOST_WEIGHT_BYTES:
        return values, layers
    most = max(1, layers * MOST_WEIGHT_BYTES // size)
    cut = cut_layers(values, most)
    if _layers(cut, model) != architecture.layers[:most]:
        raise UnsupportedError(f"{model.name}: weights of {size >> 30} GiB remain, and no layer can be left out")
    return cut, most


def _weight_bytes(model: Model) -> int:
    parameters = model.architecture.parameters
    return _WEIGHT_BYTES * parameters.total if parameters else 0


def _layers(values: Values, model: Model) -> object:
    """The layers that kvplan reads out of a config; None for a config that it cannot read."""
    try:
        return _read(values, model).architecture.layers
    except KvplanError:
        return None


def _read(values: Values, model: Model) -> Model:
    return read_config(dict(values), model.source, model.name)


def _deeply(values: Values, step: Step) -> Values:
    return step({name: _deeply(value, step) if isinstance(value, dict) else value for name, value in values.items()})
