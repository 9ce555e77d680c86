"""Attention of one new token per sequence over a cache as it is stored.

On a GPU with Triton the fused kernel reads the codes themselves, so a quantized cache is faster to read as well as
smaller. Elsewhere, and for formats or shapes without a kernel, the rows are decoded and attended to in float32:
the reference that the kernel is tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvplan.core.errors import UsageError
from kvplan.formats import get_format
from kvplan.runtime.codec import Rows
from kvplan.runtime.kernels import available
from kvplan.runtime.quantize import alone, stored_width


def decode_attention(
    query: Tensor,
    keys: Rows,
    values: Rows,
    cache_format: str,
    *,
    softmax_scale: float | None = None,
    lengths: Tensor | None = None,
    block_table: Tensor | None = None,
) -> Tensor:
    """softmax(query . keys) . values for one query per sequence, [batch, heads, value width] in the query's dtype.

    ``query``          [batch, heads, width]; heads a multiple of kv_heads, neighbours sharing a KV head
    ``keys, values``   the rows that ``quantize`` made of [batch, kv_heads, tokens, width]; a dict of ``codes`` alone
                       for bf16 and fp16
    ``softmax_scale``  1 / sqrt(width) unless given
    ``lengths``        [batch] integers: tokens of each sequence that count, the first ones; all by default. A
                       sequence of no tokens gets zeros
    ``block_table``    [batch, pages] integers for a paged cache, whose tensors are [pages, kv_heads, page tokens,
                       ...]: the pages of each sequence in order

    Raises UsageError where the shapes do not fit, and what ``quantize`` raises for the format.
    """
    name = get_format(cache_format).name
    _check(query, keys, values, name, lengths, block_table)
    scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    if available(query.device):
        from kvplan.runtime.kernels.decode_attention import Problem, attend, supports

        problem = Problem(
            query=query,
            keys=keys,
            values=values,
            cache_format=name,
            softmax_scale=scale,
            lengths=lengths,
            block_table=block_table,
        )
        if supports(problem):
            return attend(problem)
    return reference(query, keys, values, name, scale, lengths, block_table)


def reference(
    query: Tensor,
    keys: Rows,
    values: Rows,
    cache_format: str,
    softmax_scale: float,
    lengths: Tensor | None = None,
    block_table: Tensor | None = None,
) -> Tensor:
    """The same by decoding every row and attending in float32; arguments as ``decode_attention``."""
    key_rows, value_rows = (
        alone(cache_format, stored_width(rows, cache_format)).decode(_gather(rows, block_table), {}, torch.float32)
        for rows in (keys, values)
    )
    batch, kv_heads, tokens, width = key_rows.shape
    grouped = query.float().reshape(batch, kv_heads, -1, width)
    scores = grouped @ key_rows.transpose(-1, -2) * softmax_scale
    if lengths is not None:
        absent = torch.arange(tokens, device=query.device) >= lengths[:, None]
        scores = scores.masked_fill(absent[:, None, None, :], float("-inf"))
    weights = scores.softmax(dim=-1).nan_to_num(nan=0.0)  # a sequence without tokens
    return (weights @ value_rows).reshape(*query.shape[:2], -1).to(query.dtype)


def _gather(rows: Rows, block_table: Tensor | None) -> Rows:
    """Paged tensors [pages, kv_heads, page tokens, ...] as [batch, kv_heads, tokens, ...]."""
    if block_table is None:
        return rows
    return {name: tensor[block_table.long()].transpose(1, 2).flatten(2, 3) for name, tensor in rows.items()}


def _check(
    query: Tensor, keys: Rows, values: Rows, cache_format: str, lengths: Tensor | None, block_table: Tensor | None
) -> None:
    if query.dim() != 3:
        raise UsageError(f"a query is [batch, heads, width], not {list(query.shape)}", "one new token per sequence")
    batch, heads, width = query.shape
    sequences, kv_heads = keys["codes"].shape[:2]
    if values["codes"].shape[:3] != keys["codes"].shape[:3]:
        raise UsageError("keys and values differ in sequences, heads or tokens", "store both of the same tokens")
    if stored_width(keys, cache_format) != width:
        raise UsageError(f"a query of width {width} meets keys of {stored_width(keys, cache_format)}", "use one width")
    if heads % kv_heads:
        raise UsageError(f"{kv_heads} KV heads do not divide {heads} query heads", "give whole groups of query heads")
    found = sequences if block_table is None else block_table.shape[0]
    if found != batch or (lengths is not None and lengths.shape != (batch,)):
        raise UsageError(f"{batch} queries meet a cache of {found} sequences", "give lengths and pages for each")
