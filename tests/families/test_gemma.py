"""The Gemma line's text models: windows, sizes left to the class, shared caches, wide global heads, assistants."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, Shared, SlidingWindow
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

# google/gemma-3n-E2B-it and E4B-it, text_config; totals: transformers 5.23's own model code, meta device
GEMMA_3N_E2B = {
    "model_type": "gemma3n_text",
    "hidden_size": 2048,
    "intermediate_size": [8192] * 30,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "sliding_window": 512,
    "num_kv_shared_layers": 10,
    "vocab_size": 262400,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
}
GEMMA_3N_E4B = {
    **GEMMA_3N_E2B,
    "intermediate_size": [16384] * 35,
    "num_hidden_layers": 35,
    "num_kv_shared_layers": 15,
}
SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def read(values: dict[str, Any]) -> Architecture:
    return read_config(values, "config.json", "model").architecture


def total(values: dict[str, Any]) -> int:
    parameters = read(values).parameters
    assert parameters is not None
    return parameters.total


def windows(architecture: Architecture) -> list[int | None]:
    return [layer[0].window_tokens for layer in architecture.layers]


def test_gemma_2_slides_first_and_then_in_turn(read_asset: Any) -> None:
    assert windows(read_asset("unsloth__gemma-2-9b-it")) == [4096, None] * 21


def test_gemma_3_is_full_every_sixth_layer_however_the_file_says_it(read_asset: Any) -> None:
    name = "google__gemma-3-1b-it"
    expected = ([512] * 5 + [None]) * 4 + [512] * 2
    assert windows(read_asset(name)) == expected
    assert windows(read_asset(name, sliding_window_pattern=...)) == expected
    assert windows(read_asset(name, sliding_window_pattern=..., _sliding_window_pattern=2)) == [512, None] * 13
    types = ["sliding_attention"] * 26
    assert windows(read_asset(name, layer_types=types)) == [512] * 26  # wins over the pattern


def test_gemma_3_4b_takes_heads_and_vocabulary_from_its_class_and_says_so(read_json: Any) -> None:
    gemma = read_config(read_json("google__gemma-3-4b-it"), "config.json", "model")
    assert gemma.architecture.layers[0] == (SlidingWindow(num_kv_heads=4, head_dim=256, window=1024),)
    for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"):
        assert any(f"text_config.{key} is absent" in note for note in gemma.notes)


def test_an_embedding_model_is_refused(read_asset: Any) -> None:
    with pytest.raises(SpecError, match="use_bidirectional_attention"):
        read_asset("google__gemma-3-1b-it", use_bidirectional_attention=True)


def test_vaultgemma_has_two_norms_per_layer() -> None:
    # transformers 5.23's own model code, meta device
    assert total({**SMALL, "model_type": "vaultgemma", "num_hidden_layers": 6, "sliding_window": 64}) == 2_141_504


@pytest.mark.parametrize(
    ("values", "parameters", "storing", "sharing"),
    [(GEMMA_3N_E2B, 4_435_182_688, 20, 10), (GEMMA_3N_E4B, 6_835_235_568, 20, 15)],
)
def test_gemma_3n_shares_the_cache_of_its_last_layers(
    values: dict[str, Any], parameters: int, storing: int, sharing: int
) -> None:
    gemma = read(values)
    assert windows(gemma)[:storing] == [512, 512, 512, 512, None] * 4
    assert gemma.layers[storing:] == ((Shared(),),) * sharing
    sources = [kind.source_layer for layer in gemma.layers[storing:] for kind in layer if isinstance(kind, Shared)]
    assert sources == [18, 18, 18, 18, 19] * (sharing // 5)  # the last storing layer of the same type
    assert total(values) == parameters


def test_gemma_4_full_layers_have_wide_heads_and_store_keys_and_values(read_asset: Any) -> None:
    """Keys double as values in the weights (``attention_k_eq_v``), not in the cache: engines store both."""
    layers = read_asset("google__gemma-4-26B-A4B").layers
    assert layers[5] == (FullAttention(num_kv_heads=2, head_dim=512),)
    assert layers[0] == (SlidingWindow(num_kv_heads=8, head_dim=256, window=1024),)
    assert [part.name for part in layers[5][0].parts()] == ["key", "value"]


def test_gemma_4_ignores_global_kv_heads_unless_keys_are_values(read_asset: Any, read_json: Any) -> None:
    text = read_json("google__gemma-4-26B-A4B")["text_config"]
    plain = read({**text, "attention_k_eq_v": False})
    assert plain.layers[5] == (FullAttention(num_kv_heads=8, head_dim=512),)


def test_gemma_4_e4b_reads_the_last_layer_of_the_same_type(read_asset: Any) -> None:
    layers = read_asset("google__gemma-4-E4B-it").layers
    sources = [kind.source_layer for layer in layers for kind in layer if isinstance(kind, Shared)]
    assert sources == ([22] * 5 + [23]) * 3


def test_gemma_4_saved_by_transformers_reads_alike(read_json: Any) -> None:
    """transformers 5.23 saves the full layers' heads in ``per_layer_config``, by zero-padded layer numbers."""
    text = read_json("google__gemma-4-26B-A4B")["text_config"]
    heads = {"head_dim": 512, "num_key_value_heads": 2}
    saved = {key: value for key, value in text.items() if "global" not in key}
    assert read({**saved, "per_layer_config": {f"{layer:02}": heads for layer in range(5, 30, 6)}}) == read(text)
    with pytest.raises(SpecError, match="per_layer_config"):
        read({**saved, "per_layer_config": {"05": heads}})


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [  # transformers 5.23's own model code, meta device
        ({"num_kv_shared_layers": 6, "use_double_wide_mlp": True, "hidden_size_per_layer_input": 16}, 54_902_352),
        (
            {
                "num_kv_shared_layers": 6,
                "use_double_wide_mlp": True,
                "hidden_size_per_layer_input": 16,
                "attention_bias": True,
                "attention_k_eq_v": True,
                "num_global_key_value_heads": 1,
            },
            54_839_120,
        ),
    ],
)
def test_gemma_4_parameters_agree_with_the_models_own_code(changes: dict[str, Any], parameters: int) -> None:
    assert total({**SMALL, "model_type": "gemma4_text", **changes}) == parameters


def test_sharing_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(SpecError, match="num_kv_shared_layers is 31, more than the 30 layers"):
        read({**GEMMA_3N_E2B, "num_kv_shared_layers": 31})
    with pytest.raises(SpecError, match="leaves no full_attention layer"):
        read({**GEMMA_3N_E2B, "num_kv_shared_layers": 27})


def test_a_draft_assistant_stores_nothing_of_its_own(read_json: Any) -> None:
    assistant = read_config(read_json("google__gemma-4-31B-it-assistant"), "config.json", "model")
    assert assistant.architecture.layers == 4 * ((Shared(),),)
    assert any("reads the cache of the model it drafts for" in note for note in assistant.notes)
    # by hand: three sliding layers, a full one, the tied embedding, the projections from and to the target's width
    layer = 3 * 1024 * 8192 + 4 * 1024
    sliding, full = (2 * 1024 * 32 * head_dim + head_dim for head_dim in (256, 512))
    projections = 3 * 1024 * 5376
    assert assistant.architecture.parameters is not None
    assert (
        assistant.architecture.parameters.total == 4 * layer + 3 * sliding + full + 262_144 * 1024 + 1024 + projections
    )
