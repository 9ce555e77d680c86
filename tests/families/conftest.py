"""Fixtures of the family tests: published config files, read whole or with a few keys changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

CONFIGS = Path(__file__).parent.parent / "assets" / "configs"


class ReadAsset(Protocol):
    """Reads ``assets/configs/<name>.json`` with some keys replaced; a key set to ``...`` is removed."""

    def __call__(self, name: str, /, **changes: Any) -> Architecture: ...


@pytest.fixture
def read_json() -> Callable[[str], dict[str, Any]]:
    def read(name: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
        return values

    return read


@pytest.fixture
def read_asset(read_json: Callable[[str], dict[str, Any]]) -> ReadAsset:
    def read(name: str, /, **changes: Any) -> Architecture:
        values = read_json(name) | changes
        kept = {key: value for key, value in values.items() if value is not ...}
        return read_config(kept, f"{name}.json", name).architecture

    return read
