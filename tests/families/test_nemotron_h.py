"""Nemotron-H and Nemotron 3."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention import FullAttention, NoCache
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba2

SUPER = "nvidia__NVIDIA-Nemotron-3-Super-120B-A12B-FP8"


def test_only_stars_of_the_pattern_attend(read_asset: Callable[..., Architecture]) -> None:
    layers = read_asset("nvidia__Nemotron-H-4B-Base-8K").layers
    attention = (FullAttention(num_kv_heads=8, head_dim=128),)
    mamba = (Mamba2(num_heads=112, head_dim=64, state_size=128, num_groups=8, conv_kernel=4),)
    assert [layers.count(layer) for layer in (attention, mamba, (NoCache(),))] == [4, 24, 24]
    assert [index for index, layer in enumerate(layers) if layer == attention] == [7, 18, 29, 40]


def test_letters_and_names_spell_the_same_layers(read_asset: Callable[..., Architecture]) -> None:
    names = {"M": "mamba", "*": "attention", "-": "mlp"}
    pattern = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
    spelled = [names[letter] for letter in pattern]
    name = "nvidia__Nemotron-H-4B-Base-8K"
    assert read_asset(name, hybrid_override_pattern=..., layers_block_type=spelled).layers == read_asset(name).layers


def test_the_state_has_the_dtype_that_the_config_names(read_asset: Callable[..., Architecture]) -> None:
    for stated, expected in (("float32", "fp32"), ("bfloat16", "bf16"), (..., "fp32")):
        mamba = read_asset(SUPER, mamba_ssm_cache_dtype=stated).layers[0][0]
        assert isinstance(mamba, Mamba2)
        assert mamba.state_dtype == expected


def test_a_draft_step_runs_the_layers_of_the_draft_pattern(read_asset: Callable[..., Architecture]) -> None:
    draft = ((FullAttention(num_kv_heads=2, head_dim=128),), (NoCache(),))
    assert read_asset(SUPER).draft_layers == draft
    assert read_asset(SUPER, num_nextn_predict_layers=2).draft_layers == 2 * draft
    assert read_asset(SUPER, num_nextn_predict_layers=...).draft_layers == ()
