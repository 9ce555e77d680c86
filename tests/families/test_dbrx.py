"""DBRX: KV heads and experts in nested sections."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.errors import MissingKeyError, SpecError

NAME = "databricks__dbrx-base"


def test_the_context_length_has_an_older_name(read_asset: Any) -> None:
    assert read_asset(NAME).max_context_tokens == 32768


def test_kv_heads_come_from_the_nested_section_and_have_no_default(read_asset: Any) -> None:
    assert read_asset(NAME, attn_config={"kv_n_heads": 4}).layers[0][0].head_shape()[0] == 4
    with pytest.raises(MissingKeyError, match=r"attn_config\.kv_n_heads"):
        read_asset(NAME, attn_config={})
    with pytest.raises(MissingKeyError, match="'attn_config'"):
        read_asset(NAME, attn_config=...)


def test_heads_that_do_not_divide_are_refused(read_asset: Any) -> None:
    with pytest.raises(SpecError, match="d_model 6144 is no multiple of the 47 attention heads"):
        read_asset(NAME, n_heads=47)
