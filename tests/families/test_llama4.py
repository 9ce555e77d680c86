"""Llama 4's text model: which layers are cut into chunks, and which have experts."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import ChunkedLocal, FullAttention
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

CHUNKED = ChunkedLocal(num_kv_heads=8, head_dim=128, chunk_size=8192)
FULL = FullAttention(num_kv_heads=8, head_dim=128)


@pytest.fixture
def scout(read_json: Any) -> dict[str, Any]:
    values: dict[str, Any] = read_json("meta-llama__Llama-4-Scout-17B-16E")["text_config"]
    return values


def read(values: dict[str, Any]) -> Architecture:
    return read_config(values, "config.json", "model").architecture


def test_every_fourth_layer_has_no_rotary_embedding_and_is_full(scout: dict[str, Any]) -> None:
    assert scout["no_rope_layers"] == []
    expected = ((CHUNKED,), (CHUNKED,), (CHUNKED,), (FULL,)) * 12
    assert read(scout).layers == expected
    assert read({**scout, "no_rope_layers": [1, 1, 1, 0] * 12}).layers == expected


def test_layer_types_win_over_no_rope_layers(scout: dict[str, Any]) -> None:
    types = ["full_attention"] * 47 + ["chunked_attention"]
    assert read({**scout, "layer_types": types}).layers == ((FULL,),) * 47 + ((CHUNKED,),)


def test_a_null_chunk_size_leaves_every_layer_full(scout: dict[str, Any]) -> None:
    assert set(read({**scout, "attention_chunk_size": None}).layers) == {(FULL,)}


def test_interleaved_experts_leave_the_other_layers_dense(scout: dict[str, Any]) -> None:
    parameters = read({**scout, "interleave_moe_layer_step": 2}).parameters
    assert parameters is not None
    assert parameters.experts == 24 * 16 * 3 * 5120 * 8192
    assert parameters.mlp == 24 * 3 * 5120 * 8192 + 24 * 3 * 5120 * 16384
    listed = read({**scout, "moe_layers": list(range(1, 48, 2))}).parameters
    assert listed == parameters


def test_rotary_flags_of_another_length_are_refused(scout: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="no_rope_layers has 3 entries for 48 layers"):
        read({**scout, "no_rope_layers": [1, 1, 0]})
