"""kvpress methods under the same protocol: a cache that a press thins out after the prefill.

kvpress 0.5.5 asks for transformers below 5.3, and kvplan's caches for a later one: install it with ``--no-deps``. What
has changed since is that attention is no longer told the positions of its tokens, so they are told here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from kvplan.core.errors import UnknownNameError, UnsupportedError, UsageError
from kvplan.core.registry import split_call

PREFIX = "press:"
"""What the name of such a method starts with."""

DEFAULT_RATIO = 0.5
"""Share of the tokens that is dropped where nothing is said."""

_STORED = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_NEEDS_WEIGHTS = ("ObservedAttentionPress",)
"""Presses that read attention weights, which only transformers' eager attention returns."""


@dataclass(frozen=True, kw_only=True)
class PressMethod:
    """One press of kvpress with its options; takes the place of a ``Method`` in every task."""

    name: str
    options: tuple[tuple[str, Any], ...]
    is_baseline: bool = False
    takes_batches: bool = True

    @property
    def text(self) -> str:
        """``press:SnapKVPress:compression_ratio=0.5``."""
        return f"{PREFIX}{self.name}:{','.join(f'{key}={value}' for key, value in self.options)}"

    def new_cache(self, config: Any, native: str) -> PressedCache:
        """An empty cache that the press thins out. Raises UnsupportedError where a layer is no full attention."""
        press = getattr(import_module("kvpress"), self.name)(**dict(self.options))
        return PressedCache(config, native, press)


def parse_press(text: str) -> PressMethod:
    """The method of ``SnapKVPress``, ``snapkv:0.5`` or ``SnapKVPress:compression_ratio=0.5,window_size=32``.

    The number without a name is the share that is dropped. Raises UnsupportedError where kvpress is not installed,
    UnknownNameError for a press that it does not have, UsageError for options that the press does not take.
    """
    require_kvpress()
    names = _press_names()
    word, _, rest = text.removeprefix(PREFIX).partition(":")
    lowered = {name.lower(): name for name in names} | {name.lower().removesuffix("press"): name for name in names}
    name = lowered.get(word.strip().lower().replace("_", "").replace("-", ""))
    if name is None:
        raise UnknownNameError("kvpress method", word, names)
    _, positional, named = split_call(f"press:{rest}", "kvpress method")
    if len(positional) > 1:
        raise UsageError(f"press {text!r} has two values without a name", "write SnapKVPress:0.5,window_size=32")
    given = {"compression_ratio": _value(positional[0]) if positional else DEFAULT_RATIO}
    options = {**given, **{key: _value(value) for key, value in named.items()}}
    _check(name, options, text)
    return PressMethod(name=name, options=tuple(options.items()))


def require_kvpress() -> None:
    """Raise UnsupportedError where kvpress is not installed, or lacks a package that it imports."""
    if find_spec("kvpress") is None:
        raise UnsupportedError(f"--press runs kvpress, which is not installed: {_INSTALL}", _WHY_NO_DEPS)
    try:
        import_module("kvpress")
    except ImportError as error:
        raise UnsupportedError(f"--press: kvpress cannot be imported: {error}; {_INSTALL}", _WHY_NO_DEPS) from None


_INSTALL = "pip install --no-deps kvpress==0.5.5 && pip install cachetools datasets fire requests"
_WHY_NO_DEPS = "kvpress itself asks for an older transformers than kvplan's caches; --no-deps leaves yours as it is"


class PressedLayer(DynamicLayer):  # type: ignore[misc]
    """Rows of one layer as a press leaves them; positions are those of all tokens seen."""

    def __init__(self, stored: torch.dtype) -> None:
        super().__init__()
        self._stored, self.seen_tokens = stored, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """New rows are attended to as they came, and kept as the native dtype rounds them, as in kvplan's caches."""
        keys, values = super().update(key_states, value_states)
        self.seen_tokens += key_states.shape[2]
        self.keys, self.values = (rows.to(self._stored).to(rows.dtype) for rows in (keys, values))
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens seen, whether they are still held or not."""
        return self.seen_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(tokens, position of the first): all that are held lie before the new ones, so none is masked."""
        held = self.keys.shape[2] if self.is_initialized else 0
        return held + query_length, self.seen_tokens - held

    @property
    def stored_bytes(self) -> int:
        """Bytes of the rows that are held, in the native dtype."""
        return (self.keys.numel() + self.values.numel()) * self._stored.itemsize if self.is_initialized else 0


class PressedCache(Cache):  # type: ignore[misc]
    """A cache that a press of kvpress thins out when the prompt was read; ``native`` is the dtype that is priced."""

    def __init__(self, config: Any, native: str, press: Any) -> None:
        plain = DynamicCache(config=config).layers
        if others := sorted({type(layer).__name__ for layer in plain if type(layer) is not DynamicLayer}):
            raise UnsupportedError(
                f"kvpress methods run here on models whose layers are all full attention: this has {', '.join(others)}"
            )
        super().__init__(layers=[PressedLayer(_STORED[native]) for _ in plain])
        self.press = press

    @contextmanager
    def attending(self, model: Any) -> Iterator[PressedCache]:
        """Run ``model`` inside: its attention is told the positions of its tokens, and the press looks on."""
        config = model.config.get_text_config(decoder=True)
        before = config._attn_implementation
        if type(self.press).__name__ in _NEEDS_WEIGHTS:
            config._attn_implementation = "eager"
        hooks = [
            layer.self_attn.register_forward_pre_hook(self._tell_positions, with_kwargs=True)
            for layer in model.model.layers
        ]
        try:
            with self.press(model):
                yield self
        finally:
            config._attn_implementation = before
            for hook in hooks:
                hook.remove()

    def _tell_positions(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """``cache_position`` as transformers passed it up to 5.2: kvpress tells the prefill by it."""
        hidden, layer = kwargs["hidden_states"], self.layers[module.layer_idx]
        positions = torch.arange(layer.seen_tokens, layer.seen_tokens + hidden.shape[1], device=hidden.device)
        return args, {"cache_position": positions, **kwargs}

    @property
    def stored_tensors(self) -> dict[str, Tensor]:
        """Every row that is held, as ``3.key``."""
        rows = {"key": "keys", "value": "values"}
        return {
            f"{index}.{part}": getattr(layer, name)
            for index, layer in enumerate(self.layers)
            for part, name in rows.items()
            if layer.is_initialized
        }

    @property
    def stored_bytes(self) -> int:
        """Bytes of all rows that are held, in the native dtype."""
        return sum(layer.stored_bytes for layer in self.layers)


def _press_names() -> list[str]:
    kvpress = import_module("kvpress")
    return sorted(name for name in dir(kvpress) if name.endswith("Press") and name != "BasePress")


def _check(name: str, options: dict[str, Any], text: str) -> None:
    """Build the press once, so that its own complaints come before anything runs."""
    try:
        getattr(import_module("kvpress"), name)(**options)
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()
        raise UsageError(f"press {text!r}: {reason[0] if reason else type(error).__name__}") from None


def _value(text: str) -> Any:
    """A number or a truth value where it is one, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)
