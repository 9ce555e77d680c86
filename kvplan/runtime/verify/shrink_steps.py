"""What of a config may be made small: each step names widths or counts that usually do not reach the cache.

Layers are cut by a function of their own (``cut_layers``), as which of them are needed is for the caller to say.

A step is a guess about thousands of classes; ``skeleton`` keeps only those that leave every cache tensor as it was.
Heads of keys and values, their widths, windows, latent ranks and state sizes are touched by none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Values = dict[str, Any]
Step = Callable[[Values], Values]

VOCABULARY = 256
EXPERTS, EXPERTS_PER_TOKEN = 4, 2
FEED_FORWARD = 64
QUERY_RANK, QUERY_HEADS = 32, 4
HIDDEN = 64

_VOCABULARIES = ("vocab_size", "vocab_size_per_layer_input", "padded_vocab_size", "org_vocab_size")
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = (
    *("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts"),
    *("moe_k", "moe_top_k", "moe_topk"),
)
_EXPERT_GROUPS = ("n_group", "topk_group", "num_expert_group", "num_expert_groups", "num_limited_groups")
_FEED_FORWARD = (
    *("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size_mlp"),
    *("moe_shared_expert_intermediate_size", "shared_intermediate_size", "dense_intermediate_size"),
    *("ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff", "n_inner", "ffn_hidden_size"),
)
_UNSTATED_FEED_FORWARD = ("n_inner", "ffn_hidden_size")
"""Widths that GPT-2's and Falcon's kin compute from the hidden size where the config is silent."""

_QUERY_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_global_key_value_heads", "n_head_kv", "num_kv_heads", "kv_n_heads")
_HIDDEN = ("hidden_size", "d_model", "n_embd", "word_embed_proj_dim")

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers")
_INDEX_LISTS = ("attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "kda_layers", "full_attn_layers")


def cut_layers(values: Mapping[str, Any], most: int) -> Values:
    """The config with its first ``most`` layers: counts lowered, and lists of an entry per layer shortened."""
    values = {name: cut_layers(value, most) if isinstance(value, dict) else value for name, value in values.items()}
    for name in _LAYER_COUNTS:
        layers = values.get(name)
        if not isinstance(layers, int) or layers <= most:
            continue
        values[name] = most
        for key, entry in values.items():
            if (isinstance(entry, list) or key == "hybrid_override_pattern") and len(entry) == layers:
                values[key] = entry[:most]
            elif key in _INDEX_LISTS and entry:
                values[key] = [index for index in entry if index < most + (key == "kda_layers")]
    return values


def _small_vocabulary(values: Values) -> Values:
    """A short table of embeddings, and a padding token inside it."""
    padding = values.get("pad_token_id")
    inside = {"pad_token_id": 0} if isinstance(padding, int) and padding >= VOCABULARY else {}
    return {**_at_most(values, _VOCABULARIES, VOCABULARY), **inside}


def _few_experts(values: Values) -> Values:
    """Few routed experts in one group."""
    values = _at_most(values, _EXPERT_COUNTS, EXPERTS)
    values = _at_most(values, _EXPERTS_PER_TOKEN, EXPERTS_PER_TOKEN)
    return _at_most(values, _EXPERT_GROUPS, 1)


def _narrow_feed_forward(values: Values) -> Values:
    """Narrow blocks and experts; a state-space model's inner width goes by the same name."""
    stated = {name: values.get(name) or FEED_FORWARD for name in _UNSTATED_FEED_FORWARD if _first(values, _HIDDEN)}
    return _at_most({**values, **stated}, _FEED_FORWARD, FEED_FORWARD)


def _narrow_queries(values: Values) -> Values:
    """Low ranks of queries and outputs, and few queries of an indexer."""
    values = _at_most(values, ("q_lora_rank", "o_lora_rank"), QUERY_RANK)
    return _at_most(values, ("index_n_heads",), QUERY_HEADS)


def _few_latent_heads(values: Values) -> Values:
    """Few heads beside a latent, which serves them all: KV heads are then query heads by another name."""
    if not values.get("kv_lora_rank"):
        return values
    return _at_most(_with_head_dim(values), ("num_attention_heads", "num_key_value_heads"), QUERY_HEADS)


def _few_query_heads(values: Values) -> Values:
    """One query head for each KV head; the width of a head, usually a quotient, is stated first."""
    heads = [values[name] for name in _KV_HEADS if isinstance(values.get(name), int)]
    if not heads or values.get("kv_lora_rank"):
        return values
    return _at_most(_with_head_dim(values), _QUERY_HEADS, math.lcm(*heads))


def _narrow_residual(values: Values) -> Values:
    """A narrow residual stream, which heads and 16 divide, as kernels ask; the width of a head is stated first."""
    unit = math.lcm(_first(values, _QUERY_HEADS) or 1, 16)
    return _at_most(_with_head_dim(values), _HIDDEN, unit * math.ceil(HIDDEN / unit))


STEPS: Mapping[str, Step] = {
    "vocabulary": _small_vocabulary,
    "experts": _few_experts,
    "feed-forward widths": _narrow_feed_forward,
    "query ranks": _narrow_queries,
    "latent heads": _few_latent_heads,
    "query heads": _few_query_heads,
    "hidden size": _narrow_residual,
}
"""In the order in which they are tried: later ones count on the heads that earlier ones leave."""


def _at_most(values: Values, names: Iterable[str], limit: int) -> Values:
    """The config with the named numbers, or lists of numbers, no larger than ``limit``."""
    small: Values = {}
    for name in names:
        value = values.get(name)
        if isinstance(value, int):
            small[name] = min(value, limit)
        elif isinstance(value, list) and all(isinstance(entry, int) for entry in value):
            small[name] = [min(entry, limit) for entry in value]
    return {**values, **small}


def _with_head_dim(values: Values) -> Values:
    """The config with the head width that its class would compute; beside a latent it means the rotary width."""
    heads, hidden = _first(values, _QUERY_HEADS), _first(values, _HIDDEN)
    if values.get("head_dim") or values.get("kv_lora_rank") or not heads or not hidden:
        return values
    return {**values, "head_dim": hidden // heads}


def _first(values: Values, names: Iterable[str]) -> int | None:
    return next((values[name] for name in names if isinstance(values.get(name), int)), None)
