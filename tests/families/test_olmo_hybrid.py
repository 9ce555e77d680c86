"""OLMo Hybrid, by the defaults of transformers 5.23's OlmoHybridConfig."""

from __future__ import annotations

from kvplan.core.attention import FullAttention
from kvplan.core.recurrent import GatedDeltaNet
from kvplan.specs.config_json import read_config

OLMO_HYBRID = {
    "model_type": "olmo_hybrid",
    "hidden_size": 3840,
    "intermediate_size": 11008,
    "linear_allow_neg_eigval": True,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 65536,
    "num_attention_heads": 30,
    "num_hidden_layers": 32,
    "vocab_size": 100352,
}


def test_absent_linear_sizes_follow_from_the_width() -> None:
    architecture = read_config(OLMO_HYBRID, "config.json", "olmo").architecture
    full = (FullAttention(num_kv_heads=30, head_dim=128),)
    delta = (GatedDeltaNet(num_k_heads=30, num_v_heads=30, k_head_dim=96, v_head_dim=192, conv_kernel=4),)
    assert architecture.layers == 8 * (delta, delta, delta, full)
    assert architecture.parameters is not None
    assert architecture.parameters.total == 7_430_870_688  # transformers 5.23, same config


def test_a_shallow_model_attends_in_its_last_layer() -> None:
    layers = read_config(OLMO_HYBRID | {"num_hidden_layers": 2}, "config.json", "olmo").architecture.layers
    assert [layer[0].kind for layer in layers] == ["gated_delta_net", "full_attention"]
