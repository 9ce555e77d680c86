"""The widths of a GGUF model, from its keys and its tensors' names and sizes."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.core.config_reader import ConfigReader
from kvplan.core.model import Parameters
from kvplan.core.widths import Widths
from kvplan.specs.gguf_header import TensorInfo

_GATE = "ffn_gate"
_ROUTER = "ffn_gate_inp"
_UP = "ffn_up.weight"


def read_widths(
    reader: ConfigReader, hidden_size: int, parameters: Parameters | None, tensors: Iterable[TensorInfo]
) -> Widths | None:
    """The widths; None where the file has no embedding to measure the vocabulary by.

    Keys are those of llama.cpp's ``gguf-py/gguf/constants.py``. Layers that differ are listed: the widest counts.
    """
    vocab_size = reader.optional_integer("vocab_size")
    if vocab_size is None and parameters is not None:
        vocab_size = parameters.embedding // hidden_size
    if not vocab_size:
        return None
    num_experts = reader.integer("expert_count", default=0, minimum=0)
    dense = _widest(reader, "feed_forward_length")
    expert = _widest(reader, "expert_feed_forward_length") or dense if num_experts else 0
    num_dense = reader.integer("leading_dense_block_count", default=0, minimum=0) if num_experts else 0
    all_sparse = num_experts and not num_dense
    return Widths(
        vocab_size=vocab_size,
        intermediate_size=0 if all_sparse else dense,
        gated=any(_is_gate(tensor, hidden_size * dense) for tensor in tensors),
        num_experts=num_experts,
        experts_per_token=reader.integer("expert_used_count", default=0, minimum=0),
        moe_intermediate_size=expert,
        shared_intermediate_size=_shared(reader, expert),
        q_lora_rank=reader.integer("attention.q_lora_rank", default=0, minimum=0),
        index_num_heads=reader.integer("attention.indexer.head_count", default=0, minimum=0),
        tied_embeddings=parameters is not None and not parameters.output_head,
        dense_layers=tuple(range(num_dense)),
        **_latent_heads(reader),
    )


def _is_gate(tensor: TensorInfo, projection: int) -> bool:
    """A gate of its own, or one that lies in the up projection (Phi-3, GLM-4), which is then twice as large."""
    if _GATE in tensor.name:
        return _ROUTER not in tensor.name
    return _UP in tensor.name and tensor.elements == 2 * projection


def _widest(reader: ConfigReader, key: str) -> int:
    if isinstance(reader.value(key), list):
        return max(reader.integers(key) or [0])
    return reader.integer(key, default=0, minimum=0)


def _shared(reader: ConfigReader, expert: int) -> int:
    stated = reader.integer("expert_shared_feed_forward_length", default=0, minimum=0)
    return stated or expert * reader.integer("expert_shared_count", default=0, minimum=0)


def _latent_heads(reader: ConfigReader) -> dict[str, int]:
    """Widths of latent attention's heads: files with absorbed projections keep them under keys of their own."""
    if not reader.has("attention.kv_lora_rank"):
        return {}
    key = reader.integer("attention.key_length_mla", "attention.key_length", default=0, minimum=0)
    rope = reader.integer("rope.dimension_count", default=0, minimum=0)
    value = reader.integer("attention.value_length_mla", "attention.value_length", default=0, minimum=0)
    return {"qk_nope_head_dim": max(key - rope, 0), "v_head_dim": value}
