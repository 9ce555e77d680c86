"""Layer types, patterns and windows: what the config classes of transformers 5.23 make of the same keys."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention_layout import read_windows, spell_pattern
from kvplan.core.config_reader import ConfigReader
from kvplan.core.errors import MissingKeyError, SpecError


def windows(num_layers: int, *, defaults: dict[str, Any] | None = None, **values: Any) -> list[int | None]:
    return read_windows(ConfigReader(values, "config.json"), num_layers, **(defaults or {}))


def test_a_number_makes_every_nth_layer_full() -> None:
    assert windows(6, sliding_window=8, sliding_window_pattern=3) == [8, 8, None, 8, 8, None]


def test_letters_repeat_over_the_layers() -> None:
    assert windows(6, sliding_window=8, sliding_window_pattern="LLG") == [8, 8, None, 8, 8, None]
    assert windows(5, sliding_window=8, sliding_window_pattern="GL") == [None, 8, None, 8, None]


def test_a_number_and_its_letters_mean_the_same() -> None:
    assert spell_pattern(4, 30) == spell_pattern("LLLG", 30)


def test_layer_types_win_over_a_pattern() -> None:
    types = ["full_attention", "sliding_attention"]
    assert windows(2, sliding_window=8, sliding_window_pattern=2, layer_types=types) == [None, 8]


def test_a_bare_window_slides_everywhere() -> None:
    assert windows(2, sliding_window=8) == [8, 8]


@pytest.mark.parametrize("stated", [None, 0])
def test_a_null_or_zero_window_is_none(stated: int | None) -> None:
    assert windows(2, sliding_window=stated, defaults={"default_window": 4096}) == [None, None]


def test_an_absent_window_is_the_class_default_and_noted() -> None:
    reader = ConfigReader({}, "config.json")
    assert read_windows(reader, 2, default_window=4096) == [4096, 4096]
    assert "4096" in reader.notes[0]


def test_a_switched_off_window_is_none_whatever_else_is_said() -> None:
    types = 2 * ["sliding_attention"]
    assert windows(2, sliding_window=8, use_sliding_window=False, layer_types=types) == [None, None]


def test_layers_below_max_window_layers_are_full() -> None:
    defaults = {"default_max_window_layers": 28}
    assert windows(4, sliding_window=8, max_window_layers=3, defaults=defaults) == [None, None, None, 8]
    assert windows(30, sliding_window=8, defaults=defaults) == [None] * 28 + [8, 8]


def test_max_window_layers_means_nothing_to_other_families() -> None:
    assert windows(4, sliding_window=8, max_window_layers=3) == [8] * 4


@pytest.mark.parametrize("pattern", ["LLX", "", True, -1, [1]])
def test_an_impossible_pattern_is_named(pattern: object) -> None:
    with pytest.raises(SpecError, match="sliding_window_pattern"):
        windows(4, sliding_window=8, sliding_window_pattern=pattern)


def test_a_sliding_layer_without_a_window_is_an_error() -> None:
    with pytest.raises(MissingKeyError, match="sliding_window"):
        windows(1, layer_types=["sliding_attention"])
