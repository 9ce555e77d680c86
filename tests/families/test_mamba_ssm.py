"""Checkpoints of the original mamba_ssm package."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvplan.core.attention import FullAttention
from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1, Mamba2, ShortConv
from kvplan.specs.config_json import read_config

# state-spaces/mamba-130m
MAMBA_130M = {
    "d_model": 768,
    "n_layer": 24,
    "vocab_size": 50277,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}


def test_mamba_130m_reads_as_its_conversion_to_transformers_does(read_asset: Callable[..., Architecture]) -> None:
    architecture = read_config(MAMBA_130M, "config.json", "mamba").architecture
    converted = read_asset("state-spaces__mamba-130m-hf")
    assert architecture.layers == converted.layers
    assert architecture.parameters == converted.parameters


def test_mamba_2_attention_keeps_the_inputs_of_its_convolution(read_asset: Callable[..., Architecture]) -> None:
    # mamba_ssm's MHA convolves q, k and v of 30 heads of 128 together: 3 x 3840 channels
    architecture = read_asset("state-spaces__mamba2attn-2.7b")
    attention = (FullAttention(num_kv_heads=30, head_dim=128), ShortConv(channels=11520, conv_kernel=4))
    mamba = (Mamba2(num_heads=80, head_dim=64, state_size=128, num_groups=1, conv_kernel=4),)
    at = (9, 18, 27, 36, 45, 56)
    assert architecture.layers == tuple(attention if index in at else mamba for index in range(64))
    assert architecture.num_heads == 30


def test_ssm_cfg_overrides_the_defaults_of_the_package() -> None:
    values = MAMBA_130M | {"ssm_cfg": {"layer": "Mamba1", "d_state": 32, "expand": 3, "d_conv": 2}}
    layer = read_config(values, "config.json", "mamba").architecture.layers[0]
    assert layer == (Mamba1(intermediate_size=2304, state_size=32, conv_kernel=2),)


def test_an_unknown_mixer_is_refused() -> None:
    with pytest.raises(SpecError, match="must be Mamba1 or Mamba2, not 'Mamba3'"):
        read_config(MAMBA_130M | {"ssm_cfg": {"layer": "Mamba3"}}, "config.json", "mamba")
