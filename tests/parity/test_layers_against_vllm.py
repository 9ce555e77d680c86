"""The layers that kvplan reads out of a config against the specs that vLLM 0.32's own model classes made of it.

Reads ``tests/vectors/vllm_0.32.json``, so that no vLLM is needed; ``vllm_planner.py`` writes it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.model import Model
from kvplan.specs.catalogue import load_packaged
from kvplan.specs.config_json import read_config

TESTS = Path(__file__).parent.parent
ROWS = json.loads((TESTS / "vectors" / "vllm_0.32.json").read_text(encoding="utf-8"))["rows"]
ATTENTION = {
    "FullAttentionSpec": None,
    "SlidingWindowSpec": "sliding_window",
    "ChunkedLocalAttentionSpec": "attention_chunk_size",
}
KINDS = {"full_attention", "sliding_window", "chunked_local"}
WINDOW_PLUS_ONE = {"mlx-community__c4ai-command-r7b-12-2024-8bit"}
"""vLLM stores 4097 for Cohere2's configured 4096; the window is compared without that one."""


def load(name: str) -> Model:
    path = TESTS / "assets" / "configs" / f"{name}.json"
    return read_config(json.loads(path.read_text(encoding="utf-8")), path.name, name)


def vllms_layers(row: dict[str, Any]) -> Counter[tuple[int, int, int, int | None]]:
    layers: Counter[tuple[int, int, int, int | None]] = Counter()
    for spec in row["layers"]:
        if spec["type"] in ATTENTION:
            window = spec.get(ATTENTION[spec["type"]] or "sliding_window")
            window = window - 1 if window and row["config"] in WINDOW_PLUS_ONE else window
            layers[spec["num_kv_heads"], spec["head_size"], spec["head_size_v"], window] += spec["n"]
    return layers


def kvplans_layers(model: Model) -> Counter[tuple[int, int, int, int | None]]:
    layers: Counter[tuple[int, int, int, int | None]] = Counter()
    for kind in (kind for layer in model.architecture.layers for kind in layer if kind.kind in KINDS):
        num_kv_heads, head_dim, v_head_dim = kind.head_shape()
        layers[num_kv_heads or 0, head_dim or 0, v_head_dim or 0, kind.window_tokens] += 1
    return layers


def plain_rows() -> list[dict[str, Any]]:
    return [
        row
        for row in ROWS
        if not row["options"]
        and "layers" in row
        and any(spec["type"] in ATTENTION for spec in row["layers"])
        and (TESTS / "assets" / "configs" / f"{row['config']}.json").is_file()
    ]


def test_there_are_rows_to_compare() -> None:
    assert len(plain_rows()) >= 60


@pytest.mark.parametrize("row", plain_rows(), ids=lambda row: row["config"])
def test_heads_widths_and_windows_are_vllms(row: dict[str, Any]) -> None:
    assert kvplans_layers(load(row["config"])) == vllms_layers(row)


STARTS = json.loads((TESTS / "vectors" / "vllm_0.32_starts.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start["config"])
def test_a_started_engines_pages_hold_a_block_of_kvplans_rows(start: dict[str, Any]) -> None:
    model = load_packaged(start["config"].replace("__", "/"))
    row_bytes = {
        sum(2 * part.num_heads * part.width for part in kind.parts())
        for layer in model.architecture.layers
        for kind in layer
        if kind.kind in KINDS
    }
    pages = [group for group in start["groups"] if group["type"] in ATTENTION]
    assert pages
    for group in pages:
        assert group["page_size_bytes"] % group["block_size"] == 0
        assert group["page_size_bytes"] // group["block_size"] in row_bytes
