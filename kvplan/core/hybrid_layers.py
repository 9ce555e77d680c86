"""Readers that families with recurrent state share: layer patterns, state dtypes, class defaults."""

from __future__ import annotations

from collections.abc import Mapping

from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import FeedForward, check_length
from kvplan.core.units import cdiv

STATE_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "auto": "fp32"}
"""How configs spell the dtype of a recurrent state, and what the state tensors call it."""

NO_FEED_FORWARD = FeedForward()
"""The feed-forward part of a layer that has none."""


def exact_quotient(config: ConfigReader, dividend: int, divisor: int, name: str) -> int:
    """``dividend / divisor``; refuses the config under ``name`` where the division leaves a rest."""
    if dividend % divisor:
        config.wrong(name, f"({divisor}) must divide {dividend}")
    return dividend // divisor


def integer_or_default(config: ConfigReader, default: int, owner: str, *names: str) -> int:
    """The first present key, or ``owner``'s class default with a note that says so."""
    found = config.optional_integer(*names)
    if found is None:
        config.note(f"{config.path}{names[0]} is absent: {default}, the default of {owner}, is assumed")
        return default
    return found


def read_state_dtype(config: ConfigReader, *names: str) -> str:
    """The dtype of the recurrent state that the config names, else ``fp32`` (see core/recurrent.py)."""
    stated = config.text(*names, default="float32").rpartition(".")[2]
    if stated not in STATE_DTYPES:
        config.wrong(names[0], f"must be one of {', '.join(STATE_DTYPES)}, not {stated!r}")
    return STATE_DTYPES[stated]


def read_block_names(
    config: ConfigReader, num_layers: int, meanings: Mapping[str, str], *names: str
) -> list[str] | None:
    """A list with one type per layer, translated by ``meanings``; None where the config has no such list."""
    stated = config.texts(*names, allowed=tuple(meanings))
    if stated is None:
        return None
    check_length(config, names[0], stated, num_layers)
    return [meanings[name] for name in stated]


def read_layer_indices(config: ConfigReader, num_layers: int, *names: str) -> list[int] | None:
    """A list of layer numbers counted from 0, each below ``num_layers``; None where the config has no such list."""
    indices = config.integers(*names)
    for index in indices or ():
        if index >= num_layers:
            config.wrong(names[0], f"names layer {index}, but there are {num_layers} layers")
    return indices


def read_dt_rank(config: ConfigReader, hidden_size: int, name: str) -> int:
    """The rank of Mamba-1's step projection; absent or "auto" means a sixteenth of the width, rounded up."""
    if config.value(name, default="auto") == "auto":
        return cdiv(hidden_size, 16)
    return config.integer(name)
