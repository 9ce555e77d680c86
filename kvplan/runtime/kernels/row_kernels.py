"""Kernels that write rows in 8 bits or rotated 4 bits and read them back, one pass over the data.

Each gives what its codec in ``kvplan.runtime.codecs`` gives: bit for bit where no rotation is involved, since
``_quotient`` rounds as a division does and one addition rounds half to even.
"""

from __future__ import annotations

from typing import Any

from kvplan.runtime.kernels.lang import jit, tl


@jit
def encode_bytes(
    rows, codes, scales, static_scale, tokens, heads, batch_stride, head_stride, token_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, FP8: tl.constexpr, SCALED: tl.constexpr,
) -> None:  # fmt: skip
    """``codes`` [batch, heads, tokens, WIDTH] and ``scales`` [batch, heads, tokens] of a block of rows."""
    blocks = tl.cdiv(tokens, BLOCK)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    token = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    element = tl.arange(0, PADDED)
    mask = _held(token < tokens, element, WIDTH, PADDED)
    start = rows + pair // heads * batch_stride + pair % heads * head_stride
    values = tl.load(start + token.to(tl.int64)[:, None] * token_stride + element[None, :], mask=mask, other=0.0)
    values = values.to(tl.float32)
    row = pair * tokens + token
    if SCALED:
        largest = tl.reduce(tl.abs(values), 1, _larger_or_nan)
        ordinary = (largest < float("inf")) & ((largest > 1e-25) | (largest == 0))
        if tl.min(ordinary.to(tl.int32), 0) == 0:
            values, largest = _finite(values)
            lift = tl.where(largest < 1e-25, 1.152921504606847e18, 1.0)
            scale = _over_constant(largest, 448.0 if FP8 else 127.0)
            quotient = _quotient(values * lift[:, None], scale * lift)
        else:
            scale = _over_constant(largest, 448.0 if FP8 else 127.0)
            quotient = _quotient(values, scale)
        tl.store(scales + row, scale, mask=token < tokens)
    else:
        values = tl.where(values == values, values, 0.0)
        values = tl.minimum(tl.maximum(values, -448.0 * static_scale), 448.0 * static_scale)
        quotient = _quotient(values, tl.full([BLOCK], 1.0, tl.float32) * static_scale)
    coded = quotient.to(tl.float8e4nv) if FP8 else _round(quotient).to(tl.int8)
    tl.store(codes + row[:, None] * WIDTH + element[None, :], coded, mask=mask)


@jit
def decode_bytes(
    codes, scales, rows, static_scale, tokens, heads, batch_stride, head_stride, token_stride,
    scale_batch_stride, scale_head_stride, scale_token_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr,
) -> None:  # fmt: skip
    """``rows`` [batch, heads, tokens, WIDTH] of a block of rows: codes times scale in float32, then cast."""
    blocks = tl.cdiv(tokens, BLOCK)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    token = (tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    element = tl.arange(0, PADDED)
    mask = _held(token < tokens, element, WIDTH, PADDED)
    start = codes + pair // heads * batch_stride + pair % heads * head_stride
    values = tl.load(start + token[:, None] * token_stride + element[None, :], mask=mask).to(tl.float32)
    if SCALED:
        first = scales + pair // heads * scale_batch_stride + pair % heads * scale_head_stride
        values *= tl.load(first + token * scale_token_stride, mask=token < tokens, other=0.0)[:, None]
    else:
        values *= static_scale
    target = rows + (pair * tokens + token)[:, None] * WIDTH + element[None, :]
    tl.store(target, values.to(rows.dtype.element_ty), mask=mask)


@jit
def encode_nibbles(
    rows, codes, scales, signs, norm, tokens, heads, pairs, batch_stride, head_stride, token_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """Packed ``codes`` [batch, heads, tokens, WIDTH / 2] and ``scales`` of rotated rows, block after block.

    ``signs`` [WIDTH, WIDTH] in the rows' dtype, ones and minus ones, so the tensor cores' products are exact. The last
    step of the transform, sum and difference of the halves, is left to additions: half the products. Programs are few
    and stay, so that the matrix stays in shared memory.
    """
    HALF: tl.constexpr = WIDTH // 2
    half = tl.arange(0, HALF)
    low_signs = tl.load(signs + half[:, None] * WIDTH + half[None, :])
    high_signs = tl.load(signs + (HALF + half)[:, None] * WIDTH + half[None, :])
    blocks = tl.cdiv(tokens, BLOCK)
    for block in tl.range(tl.program_id(0), blocks * pairs, tl.num_programs(0), num_stages=STAGES):
        pair = (block // blocks).to(tl.int64)
        token = block % blocks * BLOCK + tl.arange(0, BLOCK)
        held = (token < tokens)[:, None]
        start = rows + pair // heads * batch_stride + pair % heads * head_stride
        cell = start + token.to(tl.int64)[:, None] * token_stride + half[None, :]
        low, high = tl.load(cell, mask=held, other=0.0), tl.load(cell + HALF, mask=held, other=0.0)
        first, second = tl.dot(low, low_signs), tl.dot(high, high_signs)
        least, most = _range(first + second, first - second)
        if tl.max(tl.where(most - least < float("inf"), 0, 1), 0) > 0:
            largest = tl.maximum(_largest(low.to(tl.float32)), _largest(high.to(tl.float32)))
            first = tl.dot(_clamped(low.to(tl.float32), largest).to(low.dtype), low_signs)
            second = tl.dot(_clamped(high.to(tl.float32), largest).to(high.dtype), high_signs)
            first, second = _within_range(first + second), _within_range(first - second)
            least, most = _range(first, second)
        else:
            first, second = first + second, first - second
        packed, scale = _nibbles(first, second, least, most, norm)
        row = pair * tokens + token
        tl.store(codes + row[:, None] * HALF + half[None, :], packed, mask=held)
        tl.store(scales + row, scale, mask=token < tokens)


@jit
def decode_nibbles(
    codes, scales, rows, signs, norm, tokens, heads, pairs, batch_stride, head_stride, token_stride,
    scale_batch_stride, scale_head_stride, scale_token_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """``rows`` [batch, heads, tokens, WIDTH], rotated back: whole numbers times ``signs`` (float16), then the scale."""
    HALF: tl.constexpr = WIDTH // 2
    half = tl.arange(0, HALF)
    low_signs = tl.load(signs + half[:, None] * WIDTH + half[None, :])
    high_signs = tl.load(signs + half[:, None] * WIDTH + HALF + half[None, :])
    blocks = tl.cdiv(tokens, BLOCK)
    for block in tl.range(tl.program_id(0), blocks * pairs, tl.num_programs(0), num_stages=STAGES):
        pair = (block // blocks).to(tl.int64)
        token = (block % blocks * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
        held = token < tokens
        start = codes + pair // heads * batch_stride + pair % heads * head_stride
        packed = tl.load(start + token[:, None] * token_stride + half[None, :], mask=held[:, None], other=0)
        first = scales + pair // heads * scale_batch_stride + pair % heads * scale_head_stride
        word = tl.load(first + token * scale_token_stride, mask=held, other=0.0).to(tl.int32, bitcast=True)
        factor, zero = ((word & -16).to(tl.float32, bitcast=True) * norm)[:, None], (word & 15)[:, None]
        low, high = (packed & 15).to(tl.int32), (packed >> 4).to(tl.int32)
        first = tl.dot((low + high - 2 * zero).to(tl.float16), low_signs) * factor
        second = tl.dot((low - high).to(tl.float16), high_signs) * factor
        target = rows + (pair * tokens + token)[:, None] * WIDTH + half[None, :]
        tl.store(target, first.to(rows.dtype.element_ty), mask=held[:, None])
        tl.store(target + HALF, second.to(rows.dtype.element_ty), mask=held[:, None])


@jit
def _held(held, element, WIDTH: tl.constexpr, PADDED: tl.constexpr) -> Any:
    """The mask of a block: rows that exist and, where rows are padded, elements that exist."""
    if WIDTH == PADDED:
        return held[:, None]
    else:
        return held[:, None] & (element < WIDTH)[None, :]


@jit
def _finite(values) -> Any:
    """Rows with NaN as 0 and infinities as the row's largest finite magnitude, and that magnitude."""
    largest = _largest(values)
    return _clamped(values, largest), largest


@jit
def _largest(values) -> Any:
    """The largest finite magnitude of each row."""
    magnitude = tl.abs(values)
    return tl.max(tl.where(magnitude < float("inf"), magnitude, 0.0), 1)


@jit
def _clamped(values, largest) -> Any:
    """Rows with NaN as 0 and no magnitude above ``largest``."""
    values = tl.where(values == values, values, 0.0)
    return tl.minimum(tl.maximum(values, -largest[:, None]), largest[:, None])


@jit
def _within_range(sums) -> Any:
    """Sums of finite numbers that overflowed, as the largest float32."""
    sums = tl.where(sums == sums, sums, 0.0)
    return tl.minimum(tl.maximum(sums, -3.4e38), 3.4e38)


@jit
def _larger_or_nan(one, other) -> Any:
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@jit
def _smaller_or_nan(one, other) -> Any:
    return tl.minimum(one, other, propagate_nan=tl.PropagateNan.ALL)


@jit
def _range(low, high) -> Any:
    """The row's least and most, zero included; NaN where the row holds one, since every sum then does."""
    least = tl.reduce(_smaller_or_nan(low, high), 1, _smaller_or_nan)
    most = tl.reduce(_larger_or_nan(low, high), 1, _larger_or_nan)
    return _smaller_or_nan(least, 0.0), _larger_or_nan(most, 0.0)


@jit
def _nibbles(low, high, least, most, norm) -> Any:
    """Packed codes of sums times ``norm``, and the scale with the zero point in its low mantissa bits.

    One fused multiply-add makes a code: the sum over the step, plus the zero point, plus the 1.5 * 2**23 that rounds
    it to a whole number in the low bits. The zero point is rounded by the same product, so no code falls below 0.
    """
    word = _over_constant(most * norm, 15.0) - _over_constant(least * norm, 15.0)
    word = word.to(tl.int32, bitcast=True) & -16
    step = word.to(tl.float32, bitcast=True)
    factor = tl.where(step > 0, tl.minimum(norm / tl.maximum(step, 1.2e-38), 3.0e38), 0.0)
    rounder = tl.full(least.shape, 12582912.0, tl.float32)
    rounder = tl.fma(-least, factor, rounder)
    zero = rounder.to(tl.int32, bitcast=True) - 0x4B400000
    factor, rounder = tl.broadcast_to(factor[:, None], low.shape), tl.broadcast_to(rounder[:, None], low.shape)
    low_code = tl.minimum(tl.fma(low, factor, rounder), 12582927.0).to(tl.int32, bitcast=True)
    high_code = tl.minimum(tl.fma(high, factor, rounder), 12582927.0).to(tl.int32, bitcast=True)
    return (low_code + high_code * 16).to(tl.uint8), (word | zero).to(tl.float32, bitcast=True)


@jit
def _over_constant(values, divisor: tl.constexpr) -> Any:
    """``values`` [n] over a constant, rounded as a division is, for values that are not nearly subnormal."""
    guess = values * (1.0 / divisor)
    rest = tl.fma(-guess, tl.full(values.shape, divisor, tl.float32), values)
    return tl.fma(rest, tl.full(values.shape, 1.0 / divisor, tl.float32), guess)


@jit
def _quotient(values, scale) -> Any:
    """``values`` [rows, n] over ``scale`` [rows], rounded as a division is; over 1 where the scale is 0.

    With a reciprocal right to its last bit, one residual correction rounds the quotient right (Markstein, IBM J. Res.
    Dev. 34, 1990).
    """
    scale = tl.where(scale == 0, 1.0, scale)
    one = tl.full(scale.shape, 1.0, tl.float32)
    inverse = 1.0 / scale
    inverse = tl.fma(tl.fma(-scale, inverse, one), inverse, inverse)
    scale, inverse = tl.broadcast_to(scale[:, None], values.shape), tl.broadcast_to(inverse[:, None], values.shape)
    guess = values * inverse
    return tl.fma(tl.fma(-guess, scale, values), inverse, guess)


@jit
def _round(values) -> Any:
    """Whole numbers, int32, of magnitudes below 2**22, half to even: 1.5 * 2**23 leaves no bit for a fraction."""
    return (values + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000
