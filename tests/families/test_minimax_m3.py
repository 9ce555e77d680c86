"""MiniMax-M3: index keys beside keys and values in the sparse layers only."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, IndexKeys
from kvplan.core.errors import MissingKeyError, SpecError

NAME = "MiniMaxAI__MiniMax-M3"
FULL = FullAttention(num_kv_heads=4, head_dim=128)
INDEX = IndexKeys(head_dim=128)


def test_layers_from_the_fourth_on_store_index_keys_too(read_asset: Any) -> None:
    assert read_asset(NAME).layers == 3 * ((FULL,),) + 57 * ((FULL, INDEX),)


def test_the_draft_layer_is_a_sparse_one(read_asset: Any) -> None:
    assert read_asset(NAME).draft_layers == ((FULL, INDEX),)


def test_flat_names_of_transformers_read_alike(read_asset: Any) -> None:
    flat = read_asset(
        NAME,
        sparse_attention_config=...,
        index_head_dim=128,
        index_n_heads=4,
        layer_types=["full_attention"] * 3 + ["minimax_m3_sparse"] * 57,
    )
    assert flat == read_asset(NAME)


def test_without_sparse_attention_no_layer_stores_an_index(read_asset: Any, read_json: Any) -> None:
    dense = {**read_json(NAME)["sparse_attention_config"], "use_sparse_attention": False}
    assert set(read_asset(NAME, sparse_attention_config=dense).layers) == {(FULL,)}


def test_an_index_that_keeps_values_is_refused(read_asset: Any, read_json: Any) -> None:
    keeping = {**read_json(NAME)["sparse_attention_config"], "sparse_disable_index_value": [0] * 60}
    with pytest.raises(SpecError, match="sparse_disable_index_value"):
        read_asset(NAME, sparse_attention_config=keeping)


def test_a_file_without_the_index_names_the_missing_key(read_asset: Any) -> None:
    with pytest.raises(MissingKeyError, match="sparse_index_dim"):
        read_asset(NAME, sparse_attention_config=...)


def test_parameters_agree_with_transformers_model_code(read_asset: Any) -> None:
    assert read_asset(NAME).parameters.total == 426_174_565_632  # MiniMaxM3VLForCausalLM 5.23, meta device
