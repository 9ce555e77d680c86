"""The plain decoder, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.core.attention import FullAttention, SlidingWindow
from kvplan.core.errors import SpecError, UnknownArchitectureError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

TINY = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 100,
    "vocab_size": 1000,
}


def layers_of(**changes: Any) -> list[Any]:
    values = {"model_type": "llama", **TINY, **changes}
    return [kind for layer in read_config(values, "config.json", "tiny").architecture.layers for kind in layer]


def test_heads_without_a_stated_number_are_not_grouped() -> None:
    assert layers_of(num_key_value_heads=None) == 4 * [FullAttention(num_kv_heads=4, head_dim=16)]


def test_head_dim_wins_over_hidden_size_divided_by_heads() -> None:
    assert layers_of(head_dim=48)[0].head_dim == 48


def test_biases_count() -> None:
    def total(**changes: Any) -> int:
        parameters = read_config({"model_type": "llama", **TINY, **changes}, "c", "c").architecture.parameters
        assert parameters is not None
        return parameters.total

    assert total(attention_bias=True) - total() == 4 * (64 + 2 * 32 + 64)
    assert total(mlp_bias=True) - total() == 4 * (2 * 100 + 64)
    assert total() - total(tie_word_embeddings=True) == 64 * 1000


def test_layer_types_make_layers_slide() -> None:
    types = ["sliding_attention", "full_attention"] * 2
    kinds = layers_of(model_type="never_heard_of", layer_types=types, sliding_window=7)
    assert kinds == 2 * [
        SlidingWindow(num_kv_heads=2, head_dim=16, window=7),
        FullAttention(num_kv_heads=2, head_dim=16),
    ]


def test_a_window_that_no_layer_type_refers_to_is_refused() -> None:
    with pytest.raises(UnknownArchitectureError, match="'sliding_window'"):
        layers_of(sliding_window=4096)


def test_an_unknown_architecture_with_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(UnknownArchitectureError, match="'magic'"):
        layers_of(model_type="never_heard_of", magic=3)


def test_an_unknown_architecture_of_known_keys_is_a_plain_decoder() -> None:
    assert layers_of(model_type="never_heard_of") == layers_of()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide the 4"),
        ({"hidden_size": 66}, "hidden_size 66 is no multiple of the 4 attention heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for 4 layers"),
        ({"layer_types": 4 * ["chunky_attention"]}, "unknown entry 'chunky_attention'"),
        ({"layer_types": 4 * ["sliding_attention"]}, "lacks the key 'sliding_window'"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        layers_of(**changes)


def test_a_run_time_setting_of_mlc_changes_nothing(read_asset: Callable[..., Architecture]) -> None:
    # MLC saved these into mlc-ai's copies of Llama 2
    changed = read_asset("meta-llama__Llama-3.1-8B", context_window_size=2048, prefill_chunk_size=2048)
    assert changed == read_asset("meta-llama__Llama-3.1-8B")
