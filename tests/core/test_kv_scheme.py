"""The cache format that a checkpoint asks for, held against vLLM's own functions and against malformed configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.core.kv_scheme import SCHEME_FORMATS, SCHEME_METHODS, KVScheme, kv_scheme_of
from kvplan.formats import format_names

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "vllm_0.32_kv_schemes.json").read_text(encoding="utf-8"))
FORMATS = {"fp8_e4m3": "fp8_e4m3", "fp8": "fp8_e4m3", "nvfp4": "nvfp4", "auto": None, None: None}
"""vLLM's words for a cache (its ``fp8`` is e4m3), and what it refuses, in kvplan's names."""

STATIC = {"dynamic": False, "num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}


@pytest.mark.parametrize("row", VECTORS["rows"], ids=lambda row: json.dumps(row["quantization_config"])[:90])
def test_the_format_is_the_one_that_vllm_stores(row: dict[str, Any]) -> None:
    assert kv_scheme_of(row["quantization_config"]).cache_format == FORMATS[row["stored"]]


def test_what_is_stated_and_not_followed_is_noted() -> None:
    for row in VECTORS["rows"]:
        config = row["quantization_config"]
        nested = config.get("quantization", config)
        stated = [place.get(key) for place in (nested, config) for key in ("kv_cache_scheme", "kv_cache_quant_algo")]
        silent = not any(entry and entry != "auto" for entry in stated) and "export" not in config
        scheme = kv_scheme_of(config)
        assert bool(scheme.notes) == (scheme.cache_format is None and not silent), config


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quant_method": "modelopt_fp4", "kv_cache_quant_algo": "NVFP4"}, "modelopt"),
        ({"producer": {"name": "modelopt"}, "quantization": {"kv_cache_quant_algo": "FP8"}}, "modelopt"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": STATIC}, "compressed-tensors"),
        ({"quant_method": "Compressed_Tensors", "kv_cache_scheme": STATIC}, "compressed-tensors"),
    ],
)
def test_the_method_that_states_the_format_is_named(config: dict[str, Any], method: str) -> None:
    assert kv_scheme_of(config).method == method


def test_a_scheme_without_a_strategy_is_per_tensor() -> None:
    # compressed-tensors' QuantizationArgs fills in "tensor"
    config = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    assert kv_scheme_of(config).cache_format == "fp8_e4m3"


def test_the_note_says_what_was_stated() -> None:
    scheme = {**STATIC, "type": "int"}
    assert kv_scheme_of({"quant_method": "compressed-tensors", "kv_cache_scheme": scheme}) == KVScheme(
        notes=(
            "the checkpoint's kv_cache_scheme (dynamic False, num_bits 8, type int, strategy tensor, symmetric True)"
            " is not known: its cache is taken for one of 16 bits (--kv-dtype)",
        )
    )
    (note,) = kv_scheme_of({"quant_method": "fp8", "kv_cache_scheme": "static"}).notes
    assert note.startswith("the checkpoint (fp8) has scales for a quantized cache")


def test_formats_of_checkpoints_are_formats_of_kvplan() -> None:
    assert set(SCHEME_FORMATS) <= set(format_names())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["FP8", "float", "tensor", "", "modelopt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*STATIC, "kv_cache_scheme", "kv_cache_quant_algo", "name"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
KEYS = ("kv_cache_scheme", "kv_cache_quant_algo", "quantization", "export", "producer", "quant_method")


@settings(max_examples=300, deadline=None)
@given(
    config=st.dictionaries(st.sampled_from(KEYS), JSON),
    method=st.none() | st.sampled_from([*SCHEME_METHODS, "fp8", "quark"]),
)
def test_no_json_is_too_malformed(config: dict[str, Any], method: str | None) -> None:
    scheme = kv_scheme_of(config if method is None else {**config, "quant_method": method})
    assert scheme.cache_format in (None, *SCHEME_FORMATS)
    assert (scheme.cache_format is None) == (scheme.method is None)
    assert scheme.cache_format is None or not scheme.notes
    assert not any("\n" in note for note in scheme.notes)
