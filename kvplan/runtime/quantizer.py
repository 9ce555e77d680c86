"""Keys and values into any cache format and back, for whoever holds tensors and wants no cache.

stored = quantize(keys, "int8")                    # [batch, kv_heads, tokens, head_dim]
nbytes(stored), dequantize(stored)

quantizer = KVCacheQuantizer("int8_per_tensor")    # one scale per layer, fixed by its first keys and values
stored = quantizer.quantize_kv(k, v, layer=0)
k, v = quantizer.dequantize_kv(stored, layer=0)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kvplan.core.errors import UsageError
from kvplan.core.format import CacheFormat, KVFormat, PartFormat, RowFormat
from kvplan.core.part import Part
from kvplan.formats import get_format, parse_kv_format
from kvplan.runtime import codec as codecs
from kvplan.runtime.arithmetic import cast, divide
from kvplan.runtime.codec import RowCodec, Rows
from kvplan.runtime.codecs import row_codec
from kvplan.runtime.codecs.float_rows import StaticFp8Rows, divisor
from kvplan.runtime.finite import finite
from kvplan.runtime.hadamard import rotate, unrotate
from kvplan.runtime.row_store import RowStore
from kvplan.runtime.store import PartStore
from kvplan.runtime.stores import build_store

_STATIC_SCALE = ("fp8_e4m3", "fp8_e5m2", "int8_per_tensor", "int4_per_tensor")


@dataclass(frozen=True)
class Quantized:
    """Rows in a cache format, and the dtype that they had."""

    store: PartStore
    dtype: torch.dtype

    @property
    def tensors(self) -> Rows:
        """Everything that is stored, by name."""
        return self.store.tensors()


class QuantizedKV(NamedTuple):
    """Keys and values of one layer."""

    key: Quantized
    value: Quantized


def quantize(rows: Tensor, cache_format: str | CacheFormat, part: str = "key") -> Quantized:
    """``rows`` [batch, kv_heads, tokens, width] of a part in a format, by name as ``--kv-dtype`` takes it, or itself.

    Raises UnknownNameError or UsageError for a name, UnsupportedError for rows that the format cannot hold, and
    LookupError for a format without code.
    """
    chosen = get_format(cache_format) if isinstance(cache_format, str) else cache_format
    store = build_store(chosen, part, rows.shape[-1])
    store.append(rows)
    return Quantized(store, rows.dtype)


def dequantize(stored: Quantized, dtype: torch.dtype | None = None) -> Tensor:
    """The rows again, in their first dtype unless another is given."""
    return stored.store.read(dtype or stored.dtype)


def nbytes(stored: Quantized | QuantizedKV) -> int:
    """Bytes of everything that is stored: codes, scales, zero points and residual."""
    if isinstance(stored, QuantizedKV):
        return nbytes(stored.key) + nbytes(stored.value)
    return codecs.nbytes(stored.tensors)


class KVCacheQuantizer:
    """Quantizes the keys and values of a model's layers, and keeps for each layer what its tensors share.

    ``cache_format`` is ``K`` or ``K/V`` as ``--kv-dtype`` takes it, or a KVFormat. The scale of a per-tensor format is
    fixed by the layer's first keys and values, so later ones saturate; FP8's is 1 until ``calibrate`` or ``set_scales``
    says otherwise. ``rotate_keys`` stores Hadamard-rotated keys, whose outliers are spread over the row.
    """

    def __init__(self, cache_format: str | KVFormat, *, rotate_keys: bool = False) -> None:
        self.cache_format = parse_kv_format(cache_format, "bf16") if isinstance(cache_format, str) else cache_format
        self.rotate_keys = rotate_keys
        self._shared: dict[tuple[int, str], Rows] = {}

    def quantize_kv(self, k: Tensor, v: Tensor, layer: int) -> QuantizedKV:
        """Keys and values [batch, kv_heads, tokens, head_dim] of a layer; raises as ``quantize``."""
        return QuantizedKV(self._quantize(self._rotated(k), layer, "key"), self._quantize(v, layer, "value"))

    def dequantize_kv(self, stored: QuantizedKV, layer: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Keys, rotated back, and values; in their first dtype unless another is given."""
        keys = dequantize(stored.key, torch.float32 if self.rotate_keys else dtype)
        if self.rotate_keys:
            keys = cast(unrotate(keys), dtype or stored.key.dtype)
        return keys, dequantize(stored.value, dtype)

    def calibrate(self, k: Tensor, v: Tensor, layer: int) -> None:
        """Fix the scales of a layer by the largest magnitudes in ``k`` and ``v``, FP8's included."""
        for part, rows in (("key", self._rotated(k)), ("value", v)):
            codec = self._plain_codec(part, rows.shape[-1])
            if codec is not None:
                self._shared[layer, part] = _calibrated(codec, rows)

    def set_scales(self, layer: int, *, key: float, value: float) -> None:
        """Give a layer the scales of a checkpoint (``k_scale``, ``v_scale``): x is about code x scale.

        Raises UsageError for a format without a scale for a whole tensor, and for a scale that is not positive.
        """
        for part, scale in (("key", key), ("value", value)):
            chosen = self._format_of(part)
            if chosen.name not in _STATIC_SCALE:
                raise UsageError(f"{chosen.name} has no scale for a layer", f"choose {', '.join(_STATIC_SCALE)}")
            if not 0 < scale < float("inf"):
                raise UsageError(f"the scale of a {part} must be a positive number, not {scale}")
            self._shared[layer, part] = {"scale": torch.full((1, 1, 1, 1), scale, dtype=torch.float32)}

    def _quantize(self, rows: Tensor, layer: int, part: str) -> Quantized:
        codec = self._plain_codec(part, rows.shape[-1])
        if codec is None:
            return quantize(rows, self._format_of(part), part)
        store = RowStore(self._layer_codec(codec, rows, layer, part))
        store.append(rows)
        return Quantized(store, rows.dtype)

    def _layer_codec(self, codec: RowCodec, rows: Tensor, layer: int, part: str) -> RowCodec:
        """The codec with the layer's scales, which are those of its first rows if nobody has set them."""
        place = (layer, part)
        if isinstance(codec, StaticFp8Rows):
            return replace(codec, scale=float(self._shared[place]["scale"])) if place in self._shared else codec
        if place not in self._shared:
            self._shared[place] = _calibrated(codec, rows)
        return LayerScaledRows(codec, self._shared[place])

    def _plain_codec(self, part: str, width: int) -> RowCodec | None:
        """The codec of a part's rows; None where groups along tokens leave nothing for a layer to keep."""
        cache_format = self._format_of(part)
        if not isinstance(cache_format, (RowFormat, PartFormat)):
            return None
        described = Part(name=part, num_heads=1, width=width)
        cache_format.check(described)
        return row_codec(cache_format.part_format(described), width)

    def _format_of(self, part: str) -> CacheFormat:
        return self.cache_format.value if part == "value" else self.cache_format.key

    def _rotated(self, keys: Tensor) -> Tensor:
        return cast(rotate(finite(keys)), keys.dtype) if self.rotate_keys else keys


@dataclass(frozen=True)
class LayerScaledRows:
    """A codec whose shared tensors belong to a layer and not to the first rows of each sequence."""

    codec: RowCodec
    fixed: Rows

    def calibrate(self, rows: Tensor) -> Rows:
        """The layer's tensors, for each sequence."""
        fixed = {name: held.to(rows.device) for name, held in self.fixed.items()}
        return {name: held.expand(rows.shape[0], *held.shape[1:]).contiguous() for name, held in fixed.items()}

    def encode(self, rows: Tensor, fixed: Rows) -> Rows:
        """As the codec."""
        return self.codec.encode(rows, fixed)

    def decode(self, stored: Rows, fixed: Rows, dtype: torch.dtype) -> Tensor:
        """As the codec."""
        return self.codec.decode(stored, fixed, dtype)


def _calibrated(codec: RowCodec, rows: Tensor) -> Rows:
    """What all ``rows`` share, of every sequence together."""
    if isinstance(codec, StaticFp8Rows):
        largest = finite(rows).abs().amax(dim=(0, 1, 2, 3), keepdim=True)
        return {"scale": divisor(divide(largest, torch.finfo(codec.stored_dtype).max))}
    return codec.calibrate(rows.flatten(0, 1).unsqueeze(0))
