"""LongCat-Flash: two latent caches per layer."""

from __future__ import annotations

from kvplan.core.attention import Latent
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config

# meituan-longcat/LongCat-Flash-Chat
VALUES = {
    "architectures": ["LongcatFlashForCausalLM"],
    "model_type": "longcat_flash",
    "attention_bias": False,
    "attention_method": "MLA",
    "expert_ffn_hidden_size": 2048,
    "ffn_hidden_size": 12288,
    "hidden_size": 6144,
    "kv_lora_rank": 512,
    "max_position_embeddings": 131072,
    "mla_scale_kv_lora": True,
    "mla_scale_q_lora": True,
    "moe_topk": 12,
    "n_routed_experts": 512,
    "num_attention_heads": 64,
    "num_layers": 28,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "router_bias": False,
    "routed_scaling_factor": 6.0,
    "v_head_dim": 128,
    "vocab_size": 131072,
    "zero_expert_num": 256,
    "zero_expert_type": "identity",
}


def read(**changes: object) -> Architecture:
    return read_config(VALUES | changes, "config.json", "longcat").architecture


def test_every_layer_stores_two_latents() -> None:
    latent = Latent(kv_lora_rank=512, qk_rope_head_dim=64)
    assert read().layers == 28 * ((latent, latent),)
    assert read(num_hidden_layers=56).num_layers == 28  # transformers writes both keys


def test_parameters_are_those_of_the_paper() -> None:
    # arXiv 2509.01322: 560 B in all, 18.6 to 31.3 B activated, which leaves the embedding out. transformers 5.23
    # counts 741,053,585,408: it allocates gate and up projections for the 256 zero experts of each layer too.
    parameters = read().parameters
    assert parameters is not None
    assert parameters.total == 741_053_585_408 - 28 * 256 * 2 * 2048 * 6144
    assert parameters.active is not None
    assert 31.3e9 < parameters.active - parameters.embedding < 31.4e9
