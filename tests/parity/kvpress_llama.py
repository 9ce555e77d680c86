"""A small random Llama whose weights come from plain integer arithmetic, so that every machine has the same one.

``keys_and_weights`` is its forward pass in plain torch: what a cache holds and what the queries look at, layer by
layer. kvpress runs the same weights in transformers' own LlamaForCausalLM (``kvpress_keep_sets.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

VOCABULARY, HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD_DIM, THETA = 1021, 36, 48, 3, 6, 2, 8, 10000.0
CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FEED,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 512,
    "rope_theta": THETA,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
SHAPES = {
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (FEED, HIDDEN),
    "mlp.up_proj": (FEED, HIDDEN),
    "mlp.down_proj": (HIDDEN, FEED),
}


def scrambled(count: int, seed: int) -> Tensor:
    """``count`` integers below 2^32 (the finaliser of lowbias32), exact on every machine: no product leaves int64."""
    numbers = torch.arange(count, dtype=torch.int64) + seed * 1_000_003
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97), (15, 1)):
        numbers = (numbers ^ (numbers >> shift)) * factor % 2**32
    return numbers


def uniform(shape: tuple[int, ...], seed: int, bound: float) -> Tensor:
    """Float32 numbers between -bound and bound."""
    return ((scrambled(math.prod(shape), seed).double() / 2**31 - 1) * bound).float().reshape(shape)


def state(seed: int) -> dict[str, Tensor]:
    """The weights by transformers' names. Queries and keys are large, so that attention is not flat."""
    weights = {"model.embed_tokens.weight": uniform((VOCABULARY, HIDDEN), seed, 1.0)}
    weights["model.norm.weight"] = torch.ones(HIDDEN)
    for layer in range(LAYERS):
        for index, (name, shape) in enumerate(SHAPES.items()):
            bound = 0.5 if name.endswith(("q_proj", "k_proj")) else 0.25
            drawn = uniform(shape, seed + 100 * (layer + 1) + index, bound)
            weights[f"model.layers.{layer}.{name}.weight"] = 1 + drawn if len(shape) == 1 else drawn
    return weights


def prompt(batch: int, tokens: int, seed: int) -> Tensor:
    """Token ids [batch, tokens], no token twice in a sequence: in the first layer their keys would be equally long."""
    return scrambled(batch * VOCABULARY, seed).reshape(batch, VOCABULARY).argsort(dim=1)[:, :tokens]


def keys_and_weights(ids: Tensor, weights: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of each layer: keys [batch, kv_heads, tokens, head_dim] and attention weights [batch, heads, tokens, tokens]."""
    hidden, layers = weights["model.embed_tokens.weight"][ids], []
    for layer in range(LAYERS):
        own = {name: weights[f"model.layers.{layer}.{name}.weight"] for name in SHAPES}
        normed = rms_norm(hidden, (HIDDEN,), own["input_layernorm"], 1e-6)
        query, key, value = (_heads(normed @ own[f"self_attn.{name}_proj"].T) for name in "qkv")
        query, key = _rotate(query), _rotate(key)
        groups = HEADS // KV_HEADS
        logits = query @ key.repeat_interleave(groups, 1).transpose(2, 3) / math.sqrt(HEAD_DIM)
        future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        attention = logits.masked_fill(future, -math.inf).softmax(-1)
        layers.append((key, attention))
        mixed = (attention @ value.repeat_interleave(groups, 1)).transpose(1, 2).flatten(2)
        hidden = hidden + mixed @ own["self_attn.o_proj"].T
        normed = rms_norm(hidden, (HIDDEN,), own["post_attention_layernorm"], 1e-6)
        gated = silu(normed @ own["mlp.gate_proj"].T) * (normed @ own["mlp.up_proj"].T)
        hidden = hidden + gated @ own["mlp.down_proj"].T
    return layers


def _heads(rows: Tensor) -> Tensor:
    return rows.unflatten(2, (-1, HEAD_DIM)).transpose(1, 2)


def _rotate(rows: Tensor) -> Tensor:
    inverse = 1 / THETA ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = (torch.arange(rows.shape[2])[:, None] * inverse).repeat(1, 2)
    one, other = rows.chunk(2, dim=-1)
    return rows * angles.cos() + torch.cat([-other, one], dim=-1) * angles.sin()
