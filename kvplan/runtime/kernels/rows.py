"""Launches the kernels that encode and decode rows, [batch, heads, tokens, width] with any strides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.core.units import cdiv
from kvplan.runtime.codec import Rows
from kvplan.runtime.kernels.rotation import signs
from kvplan.runtime.kernels.row_kernels import decode_bytes, decode_nibbles, encode_bytes, encode_nibbles
from kvplan.runtime.kernels.tuning import Config

BYTE_FORMATS = ("fp8_e4m3", "fp8_per_token_head", "int8_per_token_head")
NIBBLE_FORMAT = "int4_per_token_head"
MOST_WIDTH = 1024

ENCODE_BYTES = Config(block=32, warps=4, stages=1, waves=1)
DECODE_BYTES = Config(block=32, warps=4, stages=1, waves=1)
ENCODE_NIBBLES = Config(block=64, warps=4, stages=3, waves=8)
DECODE_NIBBLES = Config(block=64, warps=4, stages=3, waves=3)
"""Measured best on an H200 at a width of 128; ``waves`` is the programs that stay on each multiprocessor."""


def supports(cache_format: str, width: int, dtype: torch.dtype) -> bool:
    """Whether a kernel encodes rows of this width from this dtype (and decodes them into it)."""
    if cache_format == NIBBLE_FORMAT:  # products of float32 rows are not exact on tensor cores
        return dtype in (torch.bfloat16, torch.float16) and width in (32, 64, 128, 256)
    return cache_format in BYTE_FORMATS and width <= MOST_WIDTH


def encode(rows: Tensor, cache_format: str, static_scale: float = 1.0, config: Config | None = None) -> Rows:
    """The stored tensors of ``rows``, as the format's codec names and shapes them."""
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    if cache_format == NIBBLE_FORMAT:
        return _encode_nibbles(rows, config or ENCODE_NIBBLES)
    return _encode_bytes(rows, cache_format, static_scale, config or ENCODE_BYTES)


def decode(
    stored: Rows, cache_format: str, dtype: torch.dtype, static_scale: float = 1.0, config: Config | None = None
) -> Tensor:
    """Rows of ``dtype`` again."""
    codes = stored["codes"]
    stored = stored if codes.stride(-1) == 1 else {**stored, "codes": codes.contiguous()}
    if cache_format == NIBBLE_FORMAT:
        return _decode_nibbles(stored, dtype, config or DECODE_NIBBLES)
    return _decode_bytes(stored, cache_format, dtype, static_scale, config or DECODE_BYTES)


@dataclass(frozen=True)
class _Shape:
    """Rows as kernels count them."""

    batch: int
    heads: int
    tokens: int
    width: int

    @property
    def pairs(self) -> int:
        """Sequences times heads."""
        return self.batch * self.heads


def _encode_bytes(rows: Tensor, cache_format: str, static_scale: float, config: Config) -> Rows:
    shape = _Shape(*rows.shape)
    fp8, scaled = cache_format.startswith("fp8"), cache_format != "fp8_e4m3"
    codes = torch.empty(rows.shape, dtype=torch.float8_e4m3fn if fp8 else torch.int8, device=rows.device)
    stored = {"codes": codes}
    if scaled:
        stored["scale"] = rows.new_empty(*rows.shape[:3], 1, dtype=torch.float32)
    if rows.numel():
        encode_bytes[(cdiv(shape.tokens, config.block) * shape.pairs,)](
            rows, codes, stored.get("scale"), static_scale, shape.tokens, shape.heads, *rows.stride()[:3],
            WIDTH=shape.width, PADDED=_power(shape.width), BLOCK=config.block, FP8=fp8, SCALED=scaled,
            num_warps=config.warps,
        )  # fmt: skip
    return stored


def _decode_bytes(stored: Rows, cache_format: str, dtype: torch.dtype, static_scale: float, config: Config) -> Tensor:
    codes, scale = stored["codes"], stored.get("scale")
    shape = _Shape(*codes.shape)
    rows = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    if rows.numel():
        decode_bytes[(cdiv(shape.tokens, config.block) * shape.pairs,)](
            codes, scale, rows, static_scale, shape.tokens, shape.heads, *codes.stride()[:3],
            *((0, 0, 0) if scale is None else scale.stride()[:3]),
            WIDTH=shape.width, PADDED=_power(shape.width), BLOCK=config.block, SCALED=scale is not None,
            num_warps=config.warps,
        )  # fmt: skip
    return rows


def _encode_nibbles(rows: Tensor, config: Config) -> Rows:
    shape = _Shape(*rows.shape)
    codes = rows.new_empty(*rows.shape[:3], shape.width // 2, dtype=torch.uint8)
    scale = rows.new_empty(*rows.shape[:3], 1, dtype=torch.float32)
    if rows.numel():
        encode_nibbles[(_programs(shape, config, rows.device),)](
            rows, codes, scale, signs(shape.width, rows.device, rows.dtype, False), shape.width**-0.5,
            shape.tokens, shape.heads, shape.pairs, *rows.stride()[:3],
            WIDTH=shape.width, BLOCK=config.block, STAGES=config.stages, num_warps=config.warps,
        )  # fmt: skip
    return {"codes": codes, "scale": scale}


def _decode_nibbles(stored: Rows, dtype: torch.dtype, config: Config) -> Tensor:
    codes, scale = stored["codes"], stored["scale"]
    shape = _Shape(codes.shape[0], codes.shape[1], codes.shape[2], codes.shape[3] * 2)
    rows = torch.empty(*codes.shape[:3], shape.width, dtype=dtype, device=codes.device)
    if rows.numel():
        decode_nibbles[(_programs(shape, config, rows.device),)](
            codes, scale, rows, signs(shape.width, rows.device, torch.float16, True), shape.width**-0.5,
            shape.tokens, shape.heads, shape.pairs, *codes.stride()[:3], *scale.stride()[:3],
            WIDTH=shape.width, BLOCK=config.block, STAGES=config.stages, num_warps=config.warps,
        )  # fmt: skip
    return rows


def _programs(shape: _Shape, config: Config, device: torch.device) -> int:
    """Programs that stay, no more than there are blocks."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    return min(processors * config.waves, cdiv(shape.tokens, config.block) * shape.pairs)


def _power(size: int) -> int:
    """The power of two that holds ``size``."""
    return 1 << max(0, size - 1).bit_length()
