from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.request import SizeResult
from kvplan.core.weights import get_weight_format
from kvplan.engines import get_engine
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model
from kvplan.specs.config_json import read_config

CONFIGS = Path(__file__).parent.parent / "assets" / "configs"

Size = Callable[..., SizeResult]


@pytest.fixture
def load_asset() -> Callable[[str], Model]:
    """The Model of a config among the test assets."""

    def load(name: str) -> Model:
        path = CONFIGS / f"{name}.json"
        return read_config(json.loads(path.read_text(encoding="utf-8")), path.name, name)

    return load


@pytest.fixture
def size(load_asset: Callable[[str], Model]) -> Size:
    """Size a model of the test assets: ``size("org__name", "128k", kv_dtype="int8", tp=2)``."""

    def sized(model: str | Model, context: str | int, weights: str | None = None, **words: object) -> SizeResult:
        loaded = load_asset(model) if isinstance(model, str) else model
        sizes = {name: words.pop(name) for name in ("tp", "pp", "dp", "dcp") if name in words}
        asked = RequestWords(parallel=Parallel(**sizes), **words)  # type: ignore[arg-type]
        weight_format = get_weight_format(weights) if weights else None
        engine = get_engine("none")
        return size_model(loaded, build_request(loaded, context, asked, engine), engine, weight_format)

    return sized
