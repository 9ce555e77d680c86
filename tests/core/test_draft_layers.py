"""Draft layers that a config states, and those that it leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.config_reader import ConfigReader
from kvplan.core.draft_layers import read_draft_count


@pytest.mark.parametrize(
    ("values", "unstated", "count"),
    [({}, 0, 0), ({}, 1, 1), ({"second": 3}, 1, 3), ({"first": 0}, 1, 0), ({"first": 2, "second": 3}, 1, 2)],
)
def test_what_is_stated_comes_before_what_is_known(values: dict[str, Any], unstated: int, count: int) -> None:
    config = ConfigReader(values, "config.json")
    assert read_draft_count(config, "first", "second", unstated=unstated, source="an engine") == count
    assert bool(config.notes) == (not values and unstated > 0)
    assert all("an engine" in note for note in config.notes)
