"""Decode attention over runs of a stored sequence, and the merge of the runs (flash-decoding, arXiv 2311.01282).

One program serves all query heads of a KV head over one run of tokens, so each stored byte is read once. Codes become
16-bit floats in registers (``unpack``). The scale of a key row multiplies its score after the dot product, the scale
of a value row its weight before the second one, and zero points are corrections of rank one, so no row is ever
written out in full precision.

Accumulators are float32. Weights meet float16 planes as float16, which is finer than bfloat16 but narrower: they are
therefore weights times value scale over the largest value scale so far, at most 1.
"""

from __future__ import annotations

from typing import Any

from kvplan.runtime.kernels.lang import jit, tl
from kvplan.runtime.kernels.unpack import planes, raised_planes


@jit
def attend_run(
    query, keys, values, table, lengths, outputs, statistics, score_scale, value_scale, tokens,
    group, kv_heads, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    KEY_UNITS: tl.constexpr, VALUE_UNITS: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
    PAGE: tl.constexpr, KIND: tl.constexpr, SCALED: tl.constexpr, STAGES: tl.constexpr, ASSEMBLY: tl.constexpr,
) -> None:  # fmt: skip
    """Attend with the ``group`` query heads of a KV head, padded to HEADS rows, over run ``program_id(0)`` of tokens.

    ``query`` [batch, heads, KEY_WIDTH] contiguous; ``keys`` and ``values`` are (units, scales, unit strides, scale
    strides), strides of (sequence or page, head, token); ``table`` is (pages [batch, most pages], row stride);
    ``lengths`` [batch] or None for ``tokens`` everywhere. Writes ``outputs`` [batch * heads, runs, VALUE_WIDTH], not
    divided by the sum of weights, and ``statistics`` [2, batch * heads, runs]: the top score in powers of two, the sum.
    """
    run, runs, pair = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    batch, head = pair // kv_heads, pair % kv_heads
    length = tokens if lengths is None else tl.load(lengths + batch)
    run_tokens = tl.cdiv(tl.cdiv(length, runs), BLOCK) * BLOCK
    begin = tl.minimum(run * run_tokens, length)
    end = tl.minimum(begin + run_tokens, length)
    pages = table[0] + batch.to(tl.int64) * table[1] if PAGE else 0
    queries, query_sum, offset, power = _query(query, pair, group, KEY_WIDTH, KEY_UNITS, HEADS, KIND)
    score_scale *= power
    sums = _no_sums(HEADS, VALUE_UNITS, KIND)
    top = tl.full([HEADS], float("-inf"), tl.float32)
    total = tl.zeros([HEADS, BLOCK], tl.float32)
    shift = tl.zeros([HEADS, BLOCK], tl.float32)
    unit = tl.full([], 1e-30, tl.float32)
    whole = begin + (end - begin) // BLOCK * BLOCK
    for start in tl.range(begin, whole, BLOCK, num_stages=STAGES):
        sums, top, total, shift, unit = _attend_block(
            sums, top, total, shift, unit, queries, query_sum, offset, score_scale, keys, values, pages, batch, head,
            start, end, False, BLOCK, PAGE, KEY_WIDTH, VALUE_WIDTH, KEY_UNITS, VALUE_UNITS, KIND, SCALED, ASSEMBLY,
        )  # fmt: skip
    if whole < end:
        sums, top, total, shift, unit = _attend_block(
            sums, top, total, shift, unit, queries, query_sum, offset, score_scale, keys, values, pages, batch, head,
            whole, end, True, BLOCK, PAGE, KEY_WIDTH, VALUE_WIDTH, KEY_UNITS, VALUE_UNITS, KIND, SCALED, ASSEMBLY,
        )  # fmt: skip
    factor = value_scale * unit if SCALED else value_scale
    row = tl.arange(0, HEADS)
    cell = (pair * group + row).to(tl.int64) * runs + run
    used = row < group
    target = outputs + cell[:, None] * VALUE_WIDTH
    _store(target, used[:, None], sums, tl.sum(shift, 1), factor, VALUE_WIDTH, VALUE_UNITS, KIND)
    tl.store(statistics + cell, top, mask=used)
    tl.store(statistics + tl.num_programs(1).to(tl.int64) * group * runs + cell, tl.sum(total, 1), mask=used)


@jit
def _attend_block(
    sums, top, total, shift, unit, queries, query_sum, offset, score_scale, keys, values, pages, batch, head,
    start, end, LAST: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr,
    KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, KEY_UNITS: tl.constexpr, VALUE_UNITS: tl.constexpr,
    KIND: tl.constexpr, SCALED: tl.constexpr, ASSEMBLY: tl.constexpr,
) -> Any:  # fmt: skip
    """The state after one more block of tokens: sums, top score, sum of weights, shift, value scale in use.

    LAST masks what lies beyond the run; the other blocks are whole.
    """
    token = start + tl.arange(0, BLOCK)
    valid = token < end if LAST else tl.full([BLOCK], True, tl.int1)
    page = tl.load(pages + token // PAGE, mask=valid, other=0).to(tl.int64) if PAGE else batch.to(tl.int64)
    codes = _units(keys, head, page, token, valid, LAST, PAGE, KEY_WIDTH, KEY_UNITS, KIND)
    step, zero = _scales(keys, head, page, token, valid, PAGE, KIND, SCALED)
    value_codes = _units(values, head, page, token, valid, LAST, PAGE, VALUE_WIDTH, VALUE_UNITS, KIND)
    value_step, value_zero = _scales(values, head, page, token, valid, PAGE, KIND, SCALED)
    key_planes = raised_planes(tl.trans(codes), KIND, ASSEMBLY)
    scores = _scores(queries, query_sum, offset, key_planes, step * score_scale, zero, KIND, SCALED)
    if LAST:
        scores = tl.where(valid[None, :], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    fade = tl.exp2(top - higher)
    weights = tl.exp2(scores - higher[:, None])
    total = total * fade[:, None] + weights
    if SCALED:
        larger = tl.maximum(unit, tl.max(value_step, 0))
        fade, unit = fade * (unit / larger), larger
        weights *= (value_step / unit)[None, :]
    if KIND == "int4":
        shift = shift * fade[:, None] + weights * (value_zero - 8.0)[None, :]
    sums = _accumulate(sums, fade, weights, planes(value_codes, KIND, ASSEMBLY))
    return sums, higher, total, shift, unit


@jit
def _query(query, pair, group, WIDTH: tl.constexpr, UNITS: tl.constexpr, HEADS: tl.constexpr,
           KIND: tl.constexpr) -> Any:  # fmt: skip
    """The query's planes, the sum of each of its rows, what raised key planes add, and the power of two taken out.

    Without its power of two a query of any range fits float16, and bfloat16 fits without loss.
    """
    row = tl.arange(0, HEADS)[:, None]
    unit = tl.arange(0, UNITS)[None, :]
    start = query + (pair * group + row).to(tl.int64) * WIDTH
    if KIND == "native":
        native = tl.load(start + unit, mask=(row < group) & (unit < WIDTH), other=0.0)
        return (native,), tl.zeros([HEADS], tl.float32), tl.zeros([HEADS], tl.float32), 1.0
    elif KIND == "int4":
        return _query_of_nibbles(start, unit, (row < group) & (unit < WIDTH // 4), WIDTH // 2)
    else:
        return _query_of_bytes(start, unit, (row < group) & (unit < WIDTH // 2), 256.0 if KIND == "fp8" else 1.0)


@jit
def _query_of_bytes(start, unit, used, plane_scale: tl.constexpr) -> Any:
    low = tl.load(start + 2 * unit, mask=used, other=0.0).to(tl.float32)
    high = tl.load(start + 2 * unit + 1, mask=used, other=0.0).to(tl.float32)
    power = _power_of_two(_peak(low, high))
    planes_of = (low / power).to(tl.float16), (high / power).to(tl.float16)
    total = _sum(low)
    return planes_of, total, total * 0.0, power * plane_scale


@jit
def _query_of_nibbles(start, unit, used, half: tl.constexpr) -> Any:
    first = tl.load(start + 2 * unit, mask=used, other=0.0).to(tl.float32)
    second = tl.load(start + 2 * unit + half, mask=used, other=0.0).to(tl.float32)
    third = tl.load(start + 2 * unit + 1, mask=used, other=0.0).to(tl.float32)
    fourth = tl.load(start + 2 * unit + 1 + half, mask=used, other=0.0).to(tl.float32)
    power = _power_of_two(tl.maximum(_peak(first, second), _peak(third, fourth)))
    first, third = (first / power).to(tl.float16), (third / power).to(tl.float16)
    second, fourth = (second / power / 16).to(tl.float16), (fourth / power / 16).to(tl.float16)
    lower, upper = _sum(first) + _sum(third), _sum(second) + _sum(fourth)
    return (first, second, third, fourth), lower + 16 * upper, (lower + upper) * 1024.0, power


@jit
def _sum(plane) -> Any:
    return tl.sum(plane.to(tl.float32), 1)


@jit
def _peak(one, other) -> Any:
    return tl.max(tl.max(tl.maximum(tl.abs(one), tl.abs(other)), 1), 0)


@jit
def _power_of_two(peak) -> Any:
    """A power of two near ``peak``, from below; 1 for zero."""
    return tl.where(peak > 0, tl.exp2(tl.floor(tl.log2(tl.maximum(peak, 1e-30)))), 1.0)


@jit
def _units(rows, head, page, token, valid, LAST: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr,
           UNITS: tl.constexpr, KIND: tl.constexpr) -> Any:  # fmt: skip
    """The stored units [BLOCK, UNITS] of a block of tokens; zeros beyond the last token and the last unit."""
    strides = rows[2]
    offset = _offsets(strides, head, page, token, PAGE)
    unit = tl.arange(0, UNITS)
    USED: tl.constexpr = WIDTH if KIND == "native" else (WIDTH // 4 if KIND == "int4" else WIDTH // 2)
    if USED == UNITS and not LAST:
        return tl.load(rows[0] + offset[:, None] + unit[None, :])
    else:
        mask = valid[:, None] if USED == UNITS else valid[:, None] & (unit < USED)[None, :]
        return tl.load(rows[0] + offset[:, None] + unit[None, :], mask=mask, other=0)


@jit
def _offsets(strides, head, page, token, PAGE: tl.constexpr) -> Any:
    """Where rows start, in elements: 64 bits, since a cache has more than 2**31 of them."""
    within = token % PAGE if PAGE else token
    return page * strides[0] + head.to(tl.int64) * strides[1] + within.to(tl.int64) * strides[2]


@jit
def _scales(rows, head, page, token, valid, PAGE: tl.constexpr, KIND: tl.constexpr, SCALED: tl.constexpr) -> Any:
    """Scale and zero point of a block of tokens."""
    if KIND == "int4":
        stored = tl.load(rows[1] + _offsets(rows[3], head, page, token, PAGE), mask=valid, other=0.0)
        word = stored.to(tl.int32, bitcast=True)
        return (word & -16).to(tl.float32, bitcast=True), (word & 15).to(tl.float32)
    elif SCALED:
        return tl.load(rows[1] + _offsets(rows[3], head, page, token, PAGE), mask=valid, other=0.0), 0.0
    else:
        return 1.0, 0.0


@jit
def _scores(queries, query_sum, offset, keys, step, zero, KIND: tl.constexpr, SCALED: tl.constexpr) -> Any:
    """Scores [HEADS, BLOCK] in powers of two."""
    if KIND == "int4":
        start = tl.zeros([queries[0].shape[0], keys[0].shape[1]], tl.float32) - offset[:, None]
        scores = tl.dot(queries[0], keys[0], start)
    else:
        scores = tl.dot(queries[0], keys[0])
    for plane in tl.static_range(1, len(keys)):
        scores = tl.dot(queries[plane], keys[plane], scores)
    if KIND == "int4":
        return scores * step[None, :] - query_sum[:, None] * (step * zero)[None, :]
    elif SCALED:
        return scores * step[None, :]
    else:
        return scores * step


@jit
def _no_sums(HEADS: tl.constexpr, UNITS: tl.constexpr, KIND: tl.constexpr) -> Any:
    zeros = tl.zeros([HEADS, UNITS], tl.float32)
    if KIND == "int4":
        return zeros, zeros, zeros, zeros
    elif KIND == "native":
        return (zeros,)
    else:
        return zeros, zeros


@jit
def _accumulate(sums, fade, weights, values) -> Any:
    """Every plane's sum, faded, plus weights times the plane."""
    added = ()
    for plane in tl.static_range(len(values)):
        kept = sums[plane] * fade[:, None]
        added = added + (tl.dot(weights.to(values[plane].dtype), values[plane], kept),)  # type: ignore[assignment] # noqa: RUF005
    return added


@jit
def _store(cell, used, sums, shift, factor, WIDTH: tl.constexpr, UNITS: tl.constexpr, KIND: tl.constexpr) -> None:
    """Each plane's sums to the elements that it holds."""
    unit = tl.arange(0, UNITS)[None, :]
    if KIND == "native":
        tl.store(cell + unit, sums[0] * factor, mask=used & (unit < WIDTH))
    elif KIND == "int4":
        mask = used & (unit < WIDTH // 4)
        for plane in tl.static_range(4):
            part = sums[plane] * (0.0625 if plane % 2 else 1.0) - shift[:, None]
            tl.store(cell + 2 * unit + plane // 2 + (plane % 2) * (WIDTH // 2), part * factor, mask=mask)
    else:
        for plane in tl.static_range(2):
            part = sums[plane] * factor * (256.0 if KIND == "fp8" else 1.0)
            tl.store(cell + 2 * unit + plane, part, mask=used & (unit < WIDTH // 2))
