"""The short form of a spec: a model of equal layers, from the numbers that an announcement gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.core.attention import FullAttention, Latent, LayerKind, SlidingWindow
from kvplan.core.counting import AttentionShape, gated_mlp
from kvplan.core.model import Architecture, Parameters
from kvplan.core.widths import Widths


def is_simple(mapping: Mapping[str, Any]) -> bool:
    """Whether a spec is in the short form: it describes no kinds and no patterns."""
    return "kinds" not in mapping and "layers" not in mapping


def as_count(value: Any) -> int | None:
    """The value if it is a whole number of 0 or more, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def simple_problems(mapping: Mapping[str, Any]) -> list[str]:
    """What the numbers of a short spec lack together; malformed numbers are passed over."""
    if "kv_lora_rank" in mapping:
        return [f"{name}: latent attention has none" for name in _HEADED if name in mapping]
    problems = []
    heads, kv_heads, hidden = (as_count(mapping.get(name)) for name in ("num_heads", "num_kv_heads", "hidden_size"))
    if "qk_rope_head_dim" in mapping:
        problems.append("kv_lora_rank: is missing (qk_rope_head_dim belongs to it)")
    if "num_kv_heads" not in mapping:
        problems.append("num_kv_heads: is missing (or kv_lora_rank, for latent attention)")
    if heads and kv_heads and heads % kv_heads:
        problems.append(f"num_kv_heads: {heads} query heads cannot share {kv_heads} KV heads evenly")
    if "head_dim" not in mapping and heads and hidden and hidden % heads:
        problems.append(f"head_dim: is missing, and hidden_size {hidden} is not a multiple of num_heads {heads}")
    return problems


_HEADED = ("num_kv_heads", "head_dim", "v_head_dim", "window")


def simple_architecture(mapping: Mapping[str, Any], notes: tuple[str, ...]) -> Architecture:
    """The equal layers; parameters are counted if both the vocabulary and the width of the MLP are given."""
    parameters = _count_parameters(mapping)
    if parameters is not None:
        notes = (*notes, "parameters are counted as a decoder with gated MLPs and no biases")
    return Architecture(
        layers=((_kind(mapping),),) * mapping["num_layers"],
        hidden_size=mapping["hidden_size"],
        num_heads=mapping["num_heads"],
        max_context_tokens=mapping.get("max_context_tokens"),
        parameters=parameters,
        widths=_widths(mapping),
        notes=notes,
    )


def _kind(mapping: Mapping[str, Any]) -> LayerKind:
    if "kv_lora_rank" in mapping:
        return Latent(kv_lora_rank=mapping["kv_lora_rank"], qk_rope_head_dim=mapping.get("qk_rope_head_dim", 0))
    heads, head_dim, v_head_dim = mapping["num_kv_heads"], _head_dim(mapping), mapping.get("v_head_dim")
    if "window" in mapping:
        return SlidingWindow(num_kv_heads=heads, head_dim=head_dim, v_head_dim=v_head_dim, window=mapping["window"])
    return FullAttention(num_kv_heads=heads, head_dim=head_dim, v_head_dim=v_head_dim)


def _head_dim(mapping: Mapping[str, Any]) -> int:
    return int(mapping.get("head_dim") or mapping["hidden_size"] // mapping["num_heads"])


def _widths(mapping: Mapping[str, Any]) -> Widths | None:
    if "vocab_size" not in mapping:
        return None
    return Widths(
        vocab_size=mapping["vocab_size"],
        intermediate_size=mapping.get("intermediate_size", 0),
        tied_embeddings=mapping.get("tie_word_embeddings", False),
    )


def _count_parameters(mapping: Mapping[str, Any]) -> Parameters | None:
    if "kv_lora_rank" in mapping or not {"vocab_size", "intermediate_size"} <= mapping.keys():
        return None
    hidden, layers = mapping["hidden_size"], mapping["num_layers"]
    embedding = mapping["vocab_size"] * hidden
    shape = AttentionShape(
        hidden_size=hidden,
        num_heads=mapping["num_heads"],
        num_kv_heads=mapping["num_kv_heads"],
        head_dim=_head_dim(mapping),
        v_head_dim=mapping.get("v_head_dim"),
    )
    return Parameters(
        embedding=embedding,
        output_head=0 if mapping.get("tie_word_embeddings", False) else embedding,
        attention=layers * shape.parameters(),
        mlp=layers * gated_mlp(hidden, mapping["intermediate_size"]),
        norms=(2 * layers + 1) * hidden,
    )
