"""DeepSeek-V4 against figures of real model code and of vLLM's own layer specs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from kvplan.core.attention import CompressedStream, IndexKeys, Latent
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.core.recurrent import StateBuffer

FLASH = "deepseek-ai__DeepSeek-V4-Flash"
PRO = "deepseek-ai__DeepSeek-V4-Pro"

WINDOW = Latent(kv_lora_rank=448, qk_rope_head_dim=64, window=128)
# vLLM 0.32's specs of V4-Flash: compressor states of 2048, 512 (index) and 1024 fp32 elements a row, windows 8 and 128
SPARSE = (
    WINDOW,
    CompressedStream(head_dim=512, rope_head_dim=64, tokens_per_row=4),
    IndexKeys(head_dim=128, tokens_per_row=4),
    StateBuffer(rows=8, width=2048),
    StateBuffer(rows=8, width=512),
)
HEAVY = (
    WINDOW,
    CompressedStream(head_dim=512, rope_head_dim=64, tokens_per_row=128),
    StateBuffer(rows=128, width=1024),
)


@pytest.mark.parametrize(
    ("name", "per_token", "total", "active"),
    [(FLASH, 6_880, 284_332_230_231, 13_799_622_231), (PRO, 9_848, 1_572_997_179_491, 49_779_058_787)],
)
def test_growth_and_parameters_agree_with_the_models_own_code(
    read_asset: Any, name: str, per_token: int, total: int, active: int
) -> None:
    # transformers 5.23 on the meta device, bf16, growth between 8192 and 12288 tokens
    architecture = read_asset(name)
    growth = sum(
        2 * part.width * part.rows_per_token(8192)
        for layer in architecture.layers
        for kind in layer
        for part in kind.parts()
    )
    assert growth == Fraction(per_token)
    assert architecture.parameters.total == total
    assert architecture.parameters.active == active


def test_flash_starts_with_two_windows_and_alternates_the_two_compressions(read_asset: Any) -> None:
    architecture = read_asset(FLASH)
    assert architecture.layers == ((WINDOW,), (WINDOW,), SPARSE, *(20 * (HEAVY, SPARSE)))
    assert architecture.draft_layers == ((WINDOW,),)


def test_pro_starts_with_two_heavy_compressions(read_asset: Any) -> None:
    architecture = read_asset(PRO)
    assert architecture.layers == (HEAVY, HEAVY, SPARSE, *(29 * (HEAVY, SPARSE)))


def test_the_newer_spelling_gives_the_same_layers(read_asset: Any) -> None:
    names = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    ratios = [0, 0, 4] + 20 * [128, 4]
    newer = read_asset(
        FLASH,
        compress_ratios=...,
        layer_types=[names[ratio] for ratio in ratios],
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
        qk_rope_head_dim=...,
        partial_rotary_factor=0.125,
    )
    assert newer == read_asset(FLASH)


def test_other_rates_change_rows_and_buffers(read_asset: Any) -> None:
    layers = read_asset(
        FLASH, compress_rates={"compressed_sparse_attention": 8, "heavily_compressed_attention": 64}
    ).layers
    assert IndexKeys(head_dim=128, tokens_per_row=8) in layers[2]
    assert StateBuffer(rows=16, width=2048) in layers[2]
    assert StateBuffer(rows=64, width=1024) in layers[3]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"compress_ratios": 44 * [16]}, "unknown ratio 16"),
        ({"compress_ratios": [4, 128]}, "compress_ratios has 2 entries for 43 layers and 1 draft layers"),
        ({"compress_ratios": 46 * [4]}, "compress_ratios has 46 entries for 43 layers and 1 draft layers"),
        ({"num_key_value_heads": 2}, "num_key_value_heads must be 1"),
        ({"qk_rope_head_dim": 512}, "qk_rope_head_dim must lie between 1 and head_dim - 1"),
        ({"layer_types": 43 * ["full_attention"]}, "unknown entry 'full_attention'"),
    ],
)
def test_a_contradiction_is_refused_by_the_name_of_its_key(
    read_asset: Any, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        read_asset(FLASH, **change)


@pytest.mark.parametrize("key", ["compress_ratios", "sliding_window", "head_dim", "index_head_dim", "qk_rope_head_dim"])
def test_a_trimmed_file_is_refused_rather_than_guessed(read_asset: Any, key: str) -> None:
    with pytest.raises(MissingKeyError):
        read_asset(FLASH, **{key: ...})
