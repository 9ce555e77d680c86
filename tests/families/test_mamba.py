"""Mamba, Falcon-Mamba and Mamba-2."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1, Mamba2
from kvplan.specs.config_json import read_config

# mistralai/Mamba-Codestral-7B-v0.1
CODESTRAL = {
    "model_type": "mamba2",
    "chunk_size": 256,
    "conv_kernel": 4,
    "expand": 2,
    "head_dim": 64,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "n_groups": 8,
    "norm_before_gate": True,
    "num_heads": 128,
    "num_hidden_layers": 64,
    "rms_norm": True,
    "state_size": 128,
    "time_step_rank": 256,
    "tie_word_embeddings": False,
    "use_bias": False,
    "use_conv_bias": True,
    "vocab_size": 32768,
}


def test_falcon_mamba_is_as_wide_as_its_weights_not_as_its_expand_says(
    read_asset: Callable[..., Architecture],
) -> None:
    # the file states expand 16, hidden_size 4096 and intermediate_size 8192; vLLM 0.32 keeps [8192, 16]
    architecture = read_asset("tiiuae__falcon-mamba-7b")
    assert set(architecture.layers) == {(Mamba1(intermediate_size=8192, state_size=16, conv_kernel=4),)}


def test_recurrent_models_have_no_heads_and_no_longest_context(read_asset: Callable[..., Architecture]) -> None:
    architecture = read_asset("state-spaces__mamba-130m-hf")
    assert (architecture.num_heads, architecture.max_context_tokens) == (None, None)


def test_codestral_mamba_is_a_mamba_2() -> None:
    architecture = read_config(CODESTRAL, "config.json", "codestral").architecture
    kind = Mamba2(num_heads=128, head_dim=64, state_size=128, num_groups=8, conv_kernel=4)
    assert architecture.layers == 64 * ((kind,),)
    assert architecture.parameters is not None
    assert architecture.parameters.total == 7_285_403_648  # transformers 5.23 Mamba2Config(): the same sizes


def test_heads_that_do_not_fill_the_width_are_refused() -> None:
    with pytest.raises(SpecError, match="num_heads"):
        read_config(CODESTRAL | {"num_heads": 64}, "config.json", "codestral")


def test_a_class_default_is_noted() -> None:
    values = {key: value for key, value in CODESTRAL.items() if key != "n_groups"}
    architecture = read_config(values, "config.json", "codestral").architecture
    assert "n_groups is absent: 8, the default of Mamba2Config, is assumed" in architecture.notes
