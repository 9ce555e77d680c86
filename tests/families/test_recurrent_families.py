"""All families with recurrent state against transformers 5.23's own models (run on the meta device, bf16).

Its convolution states hold k columns where k - 1 are needed, so the comparison adds the one column.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.errors import MissingKeyError, SpecError, UnknownArchitectureError
from kvplan.core.model import Architecture
from kvplan.core.part import state_bytes
from kvplan.specs.config_json import read_config

CONFIGS = Path(__file__).parent.parent / "assets" / "configs"

# name, parameters, active parameters, cache bytes per token, cache bytes that do not grow
MEASURED = [
    ("state-spaces__mamba-130m-hf", 129_135_360, None, 0, 2_654_208),
    ("tiiuae__falcon-mamba-7b", 7_272_665_088, None, 0, 37_748_736),
    ("ai21labs__Jamba-v0.1", 51_570_323_328, 12_110_311_296, 16_384, 16_515_072),
    ("ibm-ai-platform__Bamba-9B-v2", 9_780_235_392, None, 12_288, 123_594_752),
    ("ibm-granite__granite-4.0-h-micro-base", 3_191_396_096, None, 8_192, 76_750_848),
    ("nvidia__NVIDIA-Nemotron-3-Super-120B-A12B-FP8", 120_668_687_360, 12_770_216_960, 8_192, 171_048_960),
    ("nvidia__NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 549_308_968_960, 56_058_818_560, 12_288, 409_731_072),
    ("nvidia__Nemotron-H-4B-Base-8K", 4_489_223_040, None, 16_384, 89_849_856),
    ("Qwen__Qwen3-Next-80B-A3B-Instruct", 79_674_391_296, 3_874_929_408, 24_576, 77_856_768),
    ("LiquidAI__LFM2-8B-A1B", 8_339_929_856, 1_557_740_288, 12_288, 221_184),
    ("RWKV__rwkv-4-169m-pile", 169_342_464, None, 0, 147_456),
]


def transformers_fixed_bytes(architecture: Architecture) -> int:
    total = 0
    for layer in architecture.layers:
        for kind in layer:
            for state in kind.states():
                size = state_bytes(state)
                if state.name.startswith("conv"):
                    kernel: int = kind.conv_kernel  # type: ignore[attr-defined]
                    size = size // (kernel - 1) * kernel
                total += size
    return total


def attention_bytes_per_token(architecture: Architecture, element_bytes: int) -> int:
    parts = [part for layer in architecture.layers for kind in layer for part in kind.parts()]
    return sum(part.num_heads * part.width * element_bytes for part in parts)


@pytest.mark.parametrize(("name", "total", "active", "per_token", "fixed"), MEASURED)
def test_parameters_and_cache_equal_those_of_the_models_own_code(
    read_asset: Callable[..., Architecture], name: str, total: int, active: int | None, per_token: int, fixed: int
) -> None:
    architecture = read_asset(name)
    assert architecture.parameters is not None
    assert (architecture.parameters.total, architecture.parameters.active) == (total, active)
    assert attention_bytes_per_token(architecture, 2) == per_token
    assert transformers_fixed_bytes(architecture) == fixed


@pytest.mark.parametrize("name", [row[0] for row in MEASURED])
@pytest.mark.parametrize("key", ["kv_lora_rank", "num_shared_kv_layers", "attention_chunk_size"])
def test_a_key_that_could_change_the_cache_is_refused_by_name(name: str, key: str) -> None:
    values: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    with pytest.raises(UnknownArchitectureError, match=key):
        read_config(values | {key: 7}, "config.json", name)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("state-spaces__mamba-130m-hf", "vocab_size"),
        ("ai21labs__Jamba-v0.1", "num_attention_heads"),
        ("ibm-ai-platform__Bamba-9B-v2", "hidden_size"),
        ("nvidia__Nemotron-H-4B-Base-8K", "hybrid_override_pattern"),
        ("LiquidAI__LFM2-8B-A1B", "layer_types"),
        ("MiniMaxAI__MiniMax-M1-80k", "attn_type_list"),
        ("nvidia__Jet-Nemotron-2B", "efficient_attention_config"),
        ("nvidia__Jet-Nemotron-2B", "layer_types"),
        ("google__recurrentgemma-2b-it", "num_hidden_layers"),
        ("RWKV__rwkv5-3b", "hidden_size"),
    ],
)
def test_a_missing_key_is_named(read_asset: Callable[..., Architecture], name: str, key: str) -> None:
    with pytest.raises(MissingKeyError, match=key):
        read_asset(name, **{key: ...})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ibm-ai-platform__Bamba-9B-v2", {"attn_layer_indices": [32]}, "names layer 32, but there are 32 layers"),
        ("ibm-ai-platform__Bamba-9B-v2", {"mamba_d_head": 32}, "must be the mixer's width"),
        ("ibm-granite__granite-4.0-h-micro-base", {"layer_types": ["mamba"]}, "has 1 entries for 40 layers"),
        ("ai21labs__Jamba-v0.1", {"attn_layer_offset": 8}, "must be below attn_layer_period"),
        ("nvidia__Nemotron-H-4B-Base-8K", {"hybrid_override_pattern": "MX" * 26}, "unknown letter 'X'"),
        ("nvidia__Nemotron-H-4B-Base-8K", {"num_hidden_layers": 50}, "has 52 entries for 50 layers"),
        ("nvidia__Nemotron-H-4B-Base-8K", {"mamba_ssm_cache_dtype": "int8"}, "must be one of float32"),
        ("MiniMaxAI__MiniMax-M1-80k", {"attn_type_list": [2] * 80}, "0 .lightning attention. and 1"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line(
    read_asset: Callable[..., Architecture], name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        read_asset(name, **changes)


def test_qwen_3_5_27b_attention_takes_4_gib_at_128k_in_fp8(read_json: Callable[[str], dict[str, Any]]) -> None:
    # 2 (keys, values) x 16 full layers x 4 heads x 256 x 131072 tokens x 1 byte
    text = read_json("Qwen__Qwen3.5-27B")["text_config"]
    architecture = read_config(text, "config.json", "qwen").architecture
    assert attention_bytes_per_token(architecture, 1) * 131_072 == 4_294_967_296
