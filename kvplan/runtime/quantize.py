"""Rows into the tensors that a format stores and back: the fused kernels on a GPU, the codecs in torch elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from kvplan.core.errors import UnsupportedError
from kvplan.core.format import RowFormat
from kvplan.formats import get_format
from kvplan.runtime.codec import RowCodec, Rows
from kvplan.runtime.codecs import row_codec
from kvplan.runtime.kernels import available


def quantize(rows: Tensor, cache_format: str) -> Rows:
    """The stored tensors of ``rows`` [batch, heads, tokens, width], axis 2 the token in each.

    Raises UnknownNameError for a name that is no format and UnsupportedError for one that does not store rows alone.
    """
    codec = alone(cache_format, rows.shape[-1])
    name = get_format(cache_format).name
    if available(rows.device):
        from kvplan.runtime.kernels import rows as kernels

        if kernels.supports(name, rows.shape[-1], rows.dtype):
            return kernels.encode(rows, name)
    return codec.encode(rows, {})


def dequantize(stored: Rows, cache_format: str, dtype: torch.dtype) -> Tensor:
    """Rows of ``dtype`` [batch, heads, tokens, width]; errors as ``quantize``."""
    name = get_format(cache_format).name
    width = stored_width(stored, name)
    codec = alone(cache_format, width)
    if available(stored["codes"].device):
        from kvplan.runtime.kernels import rows as kernels

        if kernels.supports(name, width, dtype):
            return kernels.decode(stored, name, dtype)
    return codec.decode(stored, {}, dtype)


def alone(cache_format: str, width: int) -> RowCodec:
    """The codec of a format whose rows stand alone, with nothing that a whole sequence shares."""
    found = get_format(cache_format)
    if not isinstance(found, RowFormat) or found.tensor_bytes:
        raise UnsupportedError(
            f"{found.name} shares scales between rows, so single rows cannot be coded",
            "use int8_per_token_head, int4_per_token_head, fp8_per_token_head or fp8_e4m3",
        )
    return row_codec(found, width)


def stored_width(stored: Rows, cache_format: str) -> int:
    """Elements of a stored row; int4 codes hold two in a byte."""
    return int(stored["codes"].shape[-1]) * (2 if cache_format == "int4_per_token_head" else 1)
