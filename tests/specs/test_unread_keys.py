"""Which unread keys of a config are refused: those that could change the cache, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.errors import UnknownArchitectureError
from kvplan.specs.config_json import read_config

LLAMA = Path(__file__).parent.parent / "assets" / "configs" / "meta-llama__Llama-3.1-8B.json"


def llama(**changes: Any) -> dict[str, Any]:
    return {**json.loads(LLAMA.read_text(encoding="utf-8")), **changes}


@pytest.mark.parametrize(
    "key", ["sliding_window", "kv_sharing_factor", "attn_type", "num_state_slots", "compress_every", "prefix_len"]
)
def test_a_key_that_speaks_of_the_cache_is_refused_by_name(key: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=f"'{key}' is unknown and could change the cache"):
        read_config(llama(**{key: 4}), "config.json", "model")


def test_all_unknown_keys_are_named_at_once() -> None:
    with pytest.raises(UnknownArchitectureError) as caught:
        read_config(llama(kv_fold=2, window_every=3), "config.json", "model")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "key",
    ["use_flash_attention_2", "attn_dropout_rate", "qk_layernorm", "attention_qkv_bias", "cache_dir", "my_own_note"],
)
def test_a_key_that_stores_no_tokens_is_passed_over(key: str) -> None:
    plain = read_config(llama(), "config.json", "model")
    assert read_config(llama(**{key: True}), "config.json", "model").architecture == plain.architecture


@pytest.mark.parametrize("off", [None, False, 0, [], {}])
def test_a_key_that_is_switched_off_is_passed_over(off: Any) -> None:
    assert read_config(llama(kv_fold=off), "config.json", "model").architecture.num_layers == 32


def test_an_architecture_without_a_family_must_be_understood_in_full() -> None:
    values = llama(model_type="future", architectures=["FutureForCausalLM"])
    assert read_config(values, "config.json", "model").architecture.num_layers == 32
    with pytest.raises(UnknownArchitectureError, match="'my_own_note' is unknown"):
        read_config({**values, "my_own_note": True}, "config.json", "model")
