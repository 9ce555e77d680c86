"""What a skeleton is, the options that llama.cpp is started with, and the parts that GGUF headers are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Kinds = list[dict[str, Any]]


def options(context: int, sequences: int, type_k: str, type_v: str | None = None, **more: Any) -> dict[str, Any]:
    """One way to start a context; ``context`` tokens for each of the sequences."""
    return {"context": context, "sequences": sequences, "type_k": type_k, "type_v": type_v or type_k, **more}


OPTIONS = (
    options(2048, 1, "f16"),
    options(3000, 4, "q8_0"),
    options(2048, 4, "q4_0", unified=True),
    options(6000, 1, "f16", swa_full=True),
    options(1000, 3, "f16", flash_attention="off"),
    options(1000, 1, "q8_0", "f16", flash_attention="off"),
    options(300, 2, "q8_0", "q4_0", ubatch=64),
    options(9000, 2, "bf16", unified=True, ubatch=4096),
    options(100, 1, "iq4_nl"),
    options(1024, 2, "q5_1", "q5_0", swa_full=True, unified=True),
)


@dataclass(frozen=True)
class Skeleton:
    """``layers`` are kvplan's kinds, layer by layer; ``header`` is written under the architecture's name.

    ``optional_tensors`` are those that the loader does not insist on and the graph needs nevertheless.
    """

    name: str
    arch: str
    family: str
    header: dict[str, Any]
    layers: list[Kinds]
    draft_layers: list[Kinds] = field(default_factory=list)
    options: tuple[dict[str, Any], ...] = ()
    optional_tensors: tuple[str, ...] = ()


def blocks(layers: range | tuple[int, ...], *names: str) -> tuple[str, ...]:
    return tuple(f"blk.{layer}.{name}" for layer in layers for name in names)


def base(layers: int, embedding: int, **more: Any) -> dict[str, Any]:
    return {
        "block_count": layers,
        "embedding_length": embedding,
        "feed_forward_length": 64,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **more,
    }


def heads(heads: int, kv_heads: int | list[int], width: int, value: int | None = None) -> dict[str, Any]:
    return {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": width,
        "attention.value_length": value or width,
        "rope.dimension_count": width,
    }


def experts(**more: Any) -> dict[str, Any]:
    return {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32, **more}


def full(kv_heads: int, width: int, value: int | None = None) -> dict[str, Any]:
    kind = {"kind": "full_attention", "num_kv_heads": kv_heads, "head_dim": width}
    return {**kind, "v_head_dim": value} if value else kind


def window(window: int, kv_heads: int, width: int, value: int | None = None) -> dict[str, Any]:
    return {**full(kv_heads, width, value), "kind": "sliding_window", "window": window}
