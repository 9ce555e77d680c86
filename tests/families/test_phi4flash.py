"""Phi-4-mini-flash (SambaY)."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.attention import FullAttention, NoCache, Shared, SlidingWindow
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1
from kvplan.specs.config_json import read_config

# microsoft/Phi-4-mini-flash-reasoning
PHI4_FLASH: dict[str, Any] = {
    "model_type": "phi4flash",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "lm_head_bias": False,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_dt_rank": 160,
    "mamba_expand": 2,
    "mamba_proj_bias": False,
    "max_position_embeddings": 262144,
    "mb_per_layer": 2,
    "mlp_bias": False,
    "num_attention_heads": 40,
    "num_hidden_layers": 32,
    "num_key_value_heads": 20,
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}


def read(**changes: Any) -> Architecture:
    return read_config(PHI4_FLASH | changes, "config.json", "phi").architecture


def test_one_full_layer_serves_the_upper_half() -> None:
    # arXiv 2507.06607: nine Mamba layers, eight sliding ones, one full one; the rest share its keys and values
    mamba = (Mamba1(intermediate_size=5120, state_size=16, conv_kernel=4),)
    sliding = (SlidingWindow(num_kv_heads=20, head_dim=64, window=512),)
    full = (FullAttention(num_kv_heads=20, head_dim=64),)
    upper = 7 * ((NoCache(),), (Shared(),))
    assert read().layers == (*(8 * (mamba, sliding)), mamba, full, *upper)


def test_a_window_per_layer_reads_the_same() -> None:
    windows = [512 if layer < 16 and layer % 2 else None for layer in range(32)]
    assert read(sliding_window=windows).layers == read().layers


def test_a_window_on_another_layer_is_refused() -> None:
    with pytest.raises(SpecError, match="sliding_window"):
        read(sliding_window=[512] * 32)


def test_the_model_has_3_8_billion_parameters() -> None:
    parameters = read().parameters
    assert parameters is not None
    assert 3.8e9 < parameters.total < 3.9e9
