"""kvplan's transformers against the cache layers that transformers 5.23.0's own model code filled.

Reads ``tests/vectors/transformers_5.23.json``, so that no torch is needed; ``tests/parity/transformers_models.py``
measures such rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.engine import EngineRequest, RankAllocation
from kvplan.core.geometry import CacheChoice, place_layers
from kvplan.core.model import Model
from kvplan.engines import get_engine
from kvplan.engines.transformers.layers import CacheQuestion, Held, hold_stage
from kvplan.formats import parse_kv_format
from kvplan.planning.request import model_facts
from kvplan.policies.none import POLICY as KEEP_ALL
from kvplan.specs.catalogue import load_packaged
from kvplan.specs.config_json import read_config

TESTS = Path(__file__).parent.parent
VECTORS = json.loads((TESTS / "vectors" / "transformers_5.23.json").read_text(encoding="utf-8"))
ROWS = VECTORS["rows"]
STATIC_TOKENS = 8192


@cache
def load(name: str) -> Model:
    """The config among the test assets, else the packaged spec of the same model."""
    path = TESTS / "assets" / "configs" / f"{name}.json"
    if path.is_file():
        return read_config(json.loads(path.read_text(encoding="utf-8")), path.name, name)
    return load_packaged(name.replace("__", "/", 1))


def request_of(row: dict[str, Any], tokens: int) -> EngineRequest:
    """One sequence in bf16, with each layer that differs from all others a stage of its own."""
    model = load(row["config"])
    native = parse_kv_format("bf16", "bf16")
    return EngineRequest(
        stages=tuple((place_layers([layer], native)[0],) for layer in dict.fromkeys(model.architecture.layers)),
        facts=model_facts(model),
        choice=CacheChoice(kv_format=native, policy=KEEP_ALL),
        context_tokens=tokens,
        encoder_tokens=row.get("encoder_tokens", 0),
    )


def in_cache(rank: RankAllocation, encoder: bool) -> int:
    """Bytes that lie in the self-attention or in the cross-attention cache, not on the model's modules."""
    groups = (group for group in rank.groups if group.item.kind.kind != "rg_lru")
    return sum(
        group.count * group.allocated_bytes
        for group in groups
        if encoder == any(part.encoder for part in group.item.kind.parts())
    )


def predicted(row: dict[str, Any], tokens: int, engine: str = "transformers", encoder: bool = False) -> list[int]:
    """Bytes of each layer; one figure for all where the model keeps one object for all (RWKV)."""
    stages = get_engine(engine).allocate(request_of(row, tokens)).stages
    layers = load(row["config"]).architecture.layers
    sizes = dict(zip(dict.fromkeys(layers), (in_cache(rank, encoder) for rank in stages)))
    each = [sizes[layer] for layer in layers]
    return [sum(each)] if len(row["layers"]) == 1 < len(each) else each


def measured(row: dict[str, Any], column: str, entry: int | None = None) -> list[int | None]:
    """A column of a row, layer by layer; trailing layers that nothing used (T5's encoder is longer) are left out."""
    kinds = [row["kinds"][ord(letter) - ord("a")][column] for letter in row["layers"]]
    figures = [kind if entry is None else kind[entry] for kind in kinds]
    num_layers = len(load(row["config"]).architecture.layers)
    assert not any(figures[num_layers:])
    return figures[:num_layers]


def held(row: dict[str, Any], tokens: int, bytes_of: Callable[[Held], int]) -> int:
    """A figure summed over everything that lies in the cache."""
    question = CacheQuestion(request=request_of(row, tokens), static=False)
    layers = load(row["config"]).architecture.layers
    times = [layers.count(layer) for layer in dict.fromkeys(layers)]
    return sum(
        count * again * bytes_of(each)
        for stage, again in zip(question.request.stages, times)
        for each, count in hold_stage(stage, question).items()
        if each.item.kind.kind != "rg_lru"
    )


def by_config(row: dict[str, Any]) -> str:
    return str(row["config"])


DECODED = [row for row in ROWS if "decoded_tokens" in row]
STATIC = [row for row in ROWS if any(kind["static"] is not None for kind in row["kinds"])]


def test_no_row_is_missing() -> None:
    assert len(ROWS) == 190
    assert len(DECODED) == 189
    assert len(STATIC) == 175
    assert len({load(row["config"]).family for row in ROWS}) >= 45


@pytest.mark.parametrize("row", ROWS, ids=by_config)
def test_every_layer_after_a_prompt(row: dict[str, Any]) -> None:
    for entry, tokens in enumerate(row["tokens"]):
        assert predicted(row, tokens) == measured(row, "prompt", entry)


@pytest.mark.parametrize("row", DECODED, ids=by_config)
def test_every_layer_after_one_more_token(row: dict[str, Any]) -> None:
    assert predicted(row, row["decoded_tokens"]) == measured(row, "decoded")


@pytest.mark.parametrize("row", STATIC, ids=by_config)
def test_every_layer_of_a_static_cache(row: dict[str, Any]) -> None:
    assert predicted(row, STATIC_TOKENS, "transformers:cache=static") == measured(row, "static")


@pytest.mark.parametrize("row", [row for row in ROWS if "cross" in row], ids=by_config)
def test_the_cross_attention_cache(row: dict[str, Any]) -> None:
    layers = predicted(row, 64, encoder=True)
    assert layers == row["cross"][: len(layers)]
    assert not any(row["cross"][len(layers) :])


@pytest.mark.parametrize("row", ROWS, ids=by_config)
def test_what_views_hold_after_a_prompt(row: dict[str, Any]) -> None:
    for tokens, storage in zip(row["tokens"], row["storage"]):
        assert held(row, tokens, lambda each: each.sequence_bytes + each.viewed_bytes) == storage


@pytest.mark.parametrize("row", DECODED, ids=by_config)
def test_what_views_hold_while_tokens_are_generated(row: dict[str, Any]) -> None:
    storage = held(row, row["decoded_tokens"], lambda each: each.sequence_bytes + each.newest_bytes)
    assert storage == row["decoded_storage"]
