"""Which layers of a decoder attend through a window: the keys that say so, read once for all families.

Published configs say it in five ways; from strongest to weakest: ``use_sliding_window`` (false switches every window
off), ``layer_types`` (a name per layer), ``sliding_window_pattern`` (every n-th layer is full, or letters such as
``LLLG``), ``max_window_layers`` (the layers below it are full), and a bare ``sliding_window`` (every layer slides).
Meaning of each key: the config classes of transformers 5.23 (gemma3, cohere2, exaone4, qwen2, mistral).
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.attention import FullAttention, HeadedKind, SlidingWindow
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import Block, FeedForward

FULL = "full_attention"
SLIDING = "sliding_attention"

_LETTERS = {"L": SLIDING, "G": FULL}


def read_layer_types(
    config: ConfigReader, num_layers: int, allowed: Sequence[str] = (FULL, SLIDING)
) -> list[str] | None:
    """``layer_types``, one name of ``allowed`` per layer, or None where absent. Raises SpecError on another length."""
    types = config.texts("layer_types", allowed=allowed)
    if types is not None and len(types) != num_layers:
        config.wrong("layer_types", f"has {len(types)} entries for {num_layers} layers")
    return types


def read_windows(
    config: ConfigReader,
    num_layers: int,
    *,
    default_window: int | None = None,
    default_pattern: int | str | None = None,
    default_max_window_layers: int | None = None,
    default_use: bool = True,
) -> list[int | None]:
    """The window of every layer in tokens, None where a layer keeps all of them.

    The defaults are those of the family's config class, taken (and noted) where the config leaves the key out;
    a stated null or 0 means "none". Only a family that gives ``default_max_window_layers`` heeds that key: other
    classes have no use for it. Raises SpecError for entries that are unknown, do not fit the number of layers,
    or name a sliding layer in a config without a window.
    """
    in_use = config.flag("use_sliding_window", default=default_use)
    window = _read_window(config, default_window) if in_use else None
    types = read_layer_types(config, num_layers)
    pattern = _read_pattern(config)
    num_full = config.optional_integer("max_window_layers", minimum=0)
    if window is None:
        config.ignore("sliding_window")
        if in_use and types is not None and SLIDING in types:
            config.missing("sliding_window")
        return [None] * num_layers
    if types is None and pattern is None and default_pattern is not None:
        _note_default(config, "sliding_window_pattern", default_pattern)
        pattern = default_pattern
    if types is None and pattern is not None:
        types = spell_pattern(pattern, num_layers)
    if types is None:
        if num_full is None and default_max_window_layers is not None:
            _note_default(config, "max_window_layers", default_max_window_layers)
            num_full = default_max_window_layers
        first = 0 if default_max_window_layers is None or num_full is None else num_full
        types = [FULL if layer < first else SLIDING for layer in range(num_layers)]
    return [window if entry == SLIDING else None for entry in types]


def read_layer_windows(config: ConfigReader, num_layers: int) -> list[int | None]:
    """The windows of a plain decoder: only ``layer_types`` makes a layer slide, a bare ``sliding_window`` does not.

    That is how vLLM 0.32's and transformers 5.23's Llama classes read it. Without ``layer_types`` the window is left
    unread, so that a config which states one is refused rather than guessed at.
    """
    return read_windows(config, num_layers) if config.has("layer_types") else [None] * num_layers


def spell_pattern(pattern: int | str, num_layers: int) -> list[str]:
    """A pattern as one name per layer: 4 and ``LLLG`` both make every fourth layer full; 0 makes every layer slide."""
    if isinstance(pattern, str):
        return [_LETTERS[pattern[layer % len(pattern)]] for layer in range(num_layers)]
    return [FULL if pattern and (layer + 1) % pattern == 0 else SLIDING for layer in range(num_layers)]


def headed_kind(shape: AttentionShape, window: int | None = None) -> HeadedKind:
    """What one layer of these heads stores: everything, or the newest ``window`` tokens."""
    if window is None:
        return FullAttention(num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim, v_head_dim=shape.v_head_dim)
    return SlidingWindow(
        num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim, v_head_dim=shape.v_head_dim, window=window
    )


def equal_blocks(
    shape: AttentionShape, feed_forward: FeedForward, windows: Sequence[int | None], *, norms: int
) -> list[Block]:
    """One block per entry of ``windows``, alike in all but the window; ``norms`` are the parameters of one block's."""
    return [
        Block(layer=(headed_kind(shape, window),), attention=shape.parameters(), norms=norms, feed_forward=feed_forward)
        for window in windows
    ]


def _read_window(config: ConfigReader, default: int | None) -> int | None:
    if "sliding_window" not in config.values and default is not None:
        _note_default(config, "sliding_window", default)
        return default
    return config.optional_integer("sliding_window", minimum=0) or None


def _read_pattern(config: ConfigReader) -> int | str | None:
    names = ("sliding_window_pattern", "_sliding_window_pattern")
    pattern = config.value(*names)
    if not isinstance(pattern, str):
        return config.optional_integer(*names, minimum=0)
    if not pattern or set(pattern) - set(_LETTERS):
        config.wrong(names[0], f"must be a number or letters L (sliding) and G (full), not {pattern!r}")
    return pattern


def _note_default(config: ConfigReader, name: str, default: int | str) -> None:
    config.note(f"{config.path}{name} is absent: {default}, the default of transformers 5.23, is assumed")
