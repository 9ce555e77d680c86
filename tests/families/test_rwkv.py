"""RWKV-4 to RWKV-7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.core.errors import SpecError, UnknownArchitectureError
from kvplan.core.model import Architecture
from kvplan.core.part import state_bytes
from kvplan.core.recurrent import Rwkv
from kvplan.specs.config_json import read_config


def rwkv7(hidden_size: int, num_layers: int, decay: int, value: int, gate: int, **changes: Any) -> Architecture:
    """A config of fla-hub/rwkv7-*-world; ``decay`` is the rank of the decay and of the learning-rate adapters."""
    values = {
        "model_type": "rwkv7",
        "architectures": ["RWKV7ForCausalLM"],
        "a_low_rank_dim": decay,
        "attn": None,
        "attn_mode": "chunk",
        "decay_low_rank_dim": decay,
        "gate_low_rank_dim": gate,
        "head_dim": 64,
        "hidden_ratio": 4.0,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 2048,
        "norm_first": True,
        "num_heads": None,
        "num_hidden_layers": num_layers,
        "tie_word_embeddings": False,
        "v_low_rank_dim": value,
        "value_dim": [hidden_size] * num_layers,
        "vocab_size": 65536,
    }
    return read_config(values | changes, "config.json", "rwkv7").architecture


def test_rwkv_4_keeps_two_shift_vectors_in_16_bits_and_three_vectors_in_32() -> None:
    kind = Rwkv(hidden_size=768, num_heads=3, head_dim=768, state_columns=1)
    # transformers 5.23: 147,456 bytes for the 12 layers of the 169m model in bf16
    assert 12 * sum(state_bytes(state) for state in kind.states()) == 147_456


def test_rwkv_5_keeps_a_matrix_per_head(read_asset: Callable[..., Architecture]) -> None:
    kind = Rwkv(hidden_size=2560, num_heads=40, head_dim=64, state_columns=64)
    assert read_asset("RWKV__rwkv5-3b").layers == 32 * ((kind,),)


def test_rwkv_7_has_as_many_parameters_as_published() -> None:
    # rwkv7-g1 1.5B: the parameters of its converted checkpoints
    parameters = rwkv7(2048, 24, 96, 64, 256).parameters
    assert parameters is not None
    assert parameters.total == 1_527_404_544


@pytest.mark.parametrize(("hidden_size", "num_layers", "billions"), [(2048, 24, 1.599873024), (4096, 32, 7.64)])
def test_rwkv_6_has_as_many_parameters_as_published(hidden_size: int, num_layers: int, billions: float) -> None:
    # rwkv-6-world 1.6B: counted in its checkpoint; 7B, whose low ranks are doubled: 7.64 as announced
    values = {
        "model_type": "rwkv6",
        "head_size": 64,
        "hidden_size": hidden_size,
        "attention_hidden_size": hidden_size,
        "intermediate_size": None,
        "num_attention_heads": 64,
        "num_hidden_layers": num_layers,
        "vocab_size": 65536,
    }
    parameters = read_config(values, "config.json", "rwkv6").architecture.parameters
    assert parameters is not None
    assert parameters.total / 1e9 == pytest.approx(billions, rel=1e-3 if billions > 2 else 1e-12)


def test_rwkv_7_with_attention_layers_is_refused() -> None:
    with pytest.raises(UnknownArchitectureError, match="'attn'"):
        rwkv7(768, 12, 64, 32, 128, attn={"layers": [3], "num_heads": 12})


def test_value_widths_that_differ_are_refused() -> None:
    with pytest.raises(SpecError, match="value_dim"):
        rwkv7(768, 12, 64, 32, 128, value_dim=[768] * 11 + [1536])
