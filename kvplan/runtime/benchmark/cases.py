"""The cases: rows in and out of a format, and decode attention beside the fastest that torch has."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvplan.runtime.benchmark.baselines import baselines
from kvplan.runtime.benchmark.timing import median_seconds, release
from kvplan.runtime.codec import Rows, nbytes
from kvplan.runtime.decode_attention import decode_attention, reference
from kvplan.runtime.quantize import dequantize, quantize

ROW_FORMATS = ("int8_per_token_head", "fp8_per_token_head", "fp8_e4m3", "int4_per_token_head")
ATTENTION_FORMATS = ("bf16", *ROW_FORMATS)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line: ``bytes`` read and written at least once each, the median time, and what it is compared with."""

    what: str
    cache_format: str
    shape: dict[str, int]
    bytes: int
    seconds: float
    copy_ratio: float
    speedup: float | None = None
    relative_error: float | None = None
    torch_relative_error: float | None = None

    @property
    def bytes_per_second(self) -> float:
        """Achieved bandwidth."""
        return self.bytes / self.seconds


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sequences, KV heads, query heads, tokens and elements per row of a case."""

    batch: int
    kv_heads: int
    heads: int
    tokens: int
    width: int

    def rows(self, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Normal rows [batch, kv_heads, tokens, width]."""
        return torch.randn(self.batch, self.kv_heads, self.tokens, self.width, dtype=dtype, device=device)


@dataclass
class Bench:
    """A run on one device, against the copy bandwidth measured on it."""

    device: torch.device
    copy_bytes_per_second: float
    flex: bool
    skipped: list[str] = field(default_factory=list)

    def rows(self, shape: Shape) -> Iterator[Result]:
        """Quantize and dequantize in every row format."""
        for cache_format in ROW_FORMATS:
            yield from self._both_ways(shape, cache_format)
            release(self.device)

    def _both_ways(self, shape: Shape, cache_format: str) -> Iterator[Result]:
        rows = shape.rows(self.device)
        stored = quantize(rows, cache_format)
        moved = rows.nbytes + nbytes(stored)
        seconds = median_seconds(lambda: quantize(rows, cache_format), self.device)
        yield self._result("quantize", cache_format, shape, moved, seconds)
        seconds = median_seconds(lambda: dequantize(stored, cache_format, rows.dtype), self.device)
        yield self._result("dequantize", cache_format, shape, moved, seconds)

    def attention(self, shape: Shape) -> Iterator[Result]:
        """Torch's backends in bfloat16, then the fused kernel in every format, all of the same rows."""
        query = torch.randn(shape.batch, shape.heads, shape.width, dtype=torch.bfloat16, device=self.device)
        keys, values = shape.rows(self.device), shape.rows(self.device)
        fastest = float("inf")
        for result in self._baselines(shape, query, keys, values):
            fastest = min(fastest, result.seconds)
            yield result
        for cache_format in ATTENTION_FORMATS:
            yield self._fused(shape, query, keys, values, cache_format, fastest)
            release(self.device)

    def _baselines(self, shape: Shape, query: Tensor, keys: Tensor, values: Tensor) -> Iterator[Result]:
        for name, call in baselines(query, keys, values, self.flex):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch warns why a backend is not eligible, then raises
                    seconds = median_seconds(call, self.device)
            except Exception as error:  # a compiler's failures have no common class
                self.skipped.append(f"{name}, {shape.heads} heads: {str(error).splitlines()[0][:200]}")
                continue
            finally:
                release(self.device)
            yield self._result(name, "bf16", shape, keys.nbytes + values.nbytes, seconds)

    def _fused(
        self, shape: Shape, query: Tensor, keys: Tensor, values: Tensor, cache_format: str, fastest: float
    ) -> Result:
        stored_keys, stored_values = _stored(keys, cache_format), _stored(values, cache_format)

        def call() -> Tensor:
            return decode_attention(query, stored_keys, stored_values, cache_format)

        found = call()
        seconds = median_seconds(call, self.device)
        exact = reference(query.float(), stored_keys, stored_values, cache_format, shape.width**-0.5)
        release(self.device)
        return self._result(
            "fused attention",
            cache_format,
            shape,
            nbytes(stored_keys) + nbytes(stored_values),
            seconds,
            speedup=fastest / seconds,
            relative_error=_error(found, exact),
            torch_relative_error=_error(_in_torch(query, stored_keys, stored_values, cache_format), exact),
        )

    def _result(
        self,
        what: str,
        cache_format: str,
        shape: Shape,
        moved: int,
        seconds: float,
        speedup: float | None = None,
        relative_error: float | None = None,
        torch_relative_error: float | None = None,
    ) -> Result:
        return Result(
            what=what,
            cache_format=cache_format,
            shape=vars(shape),
            bytes=moved,
            seconds=seconds,
            copy_ratio=moved / seconds / self.copy_bytes_per_second,
            speedup=speedup,
            relative_error=relative_error,
            torch_relative_error=torch_relative_error,
        )


def _stored(rows: Tensor, cache_format: str) -> Rows:
    return {"codes": rows} if cache_format == "bf16" else quantize(rows, cache_format)


def _in_torch(query: Tensor, keys: Rows, values: Rows, cache_format: str) -> Tensor:
    """Dequantize to bfloat16, then torch's own attention: the error that the fused kernel should not exceed."""
    key_rows, value_rows = (dequantize(rows, cache_format, query.dtype) for rows in (keys, values))
    folded = query.unflatten(1, (key_rows.shape[1], -1))
    attended = torch.nn.functional.scaled_dot_product_attention(folded, key_rows, value_rows)
    return attended.flatten(1, 2)


def _error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, Euclidean."""
    return float((found.float() - exact).norm() / exact.norm())
