"""Small kernels around the attention kernel: rotate a query, merge the runs, and rotate the result back."""

from __future__ import annotations

from kvplan.runtime.kernels.lang import jit, tl


@jit
def rotate_query(query, signs, rotated, norm, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """BLOCK rows of ``query`` [rows, WIDTH] times ``signs`` [WIDTH, WIDTH] (int8) times ``norm``, in float32."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)
    held = (row < rows)[:, None]
    cell = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    part = tl.load(query + cell, mask=held, other=0.0)
    sign = tl.load(signs + column[:, None] * WIDTH + column[None, :]).to(part.dtype)
    tl.store(rotated + cell, tl.dot(part, sign, input_precision="ieee") * norm, mask=held)


@jit
def merge_runs(
    outputs, statistics, signs, result, norm, runs, rows,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, RUNS: tl.constexpr, BLOCK: tl.constexpr, ROTATED: tl.constexpr,
) -> None:  # fmt: skip
    """One row of ``result`` [rows, WIDTH] from ``outputs`` [rows, runs, WIDTH] and ``statistics`` [2, rows, runs].

    RUNS and PADDED are powers of two no smaller than ``runs`` and WIDTH. ROTATED multiplies the row by the transpose
    of ``signs`` (int8) times ``norm``. A row of no tokens becomes zeros.
    """
    row = tl.program_id(0).to(tl.int64)
    run = tl.arange(0, RUNS)
    top = tl.load(statistics + row * runs + run, mask=run < runs, other=float("-inf"))
    highest = tl.max(top, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    share = tl.load(statistics + (rows + row) * runs + run, mask=run < runs, other=0.0)
    total = tl.sum(share * tl.exp2(top - highest), 0)
    column = tl.arange(0, PADDED)
    mixed = tl.zeros([PADDED], tl.float32)
    for first in range(0, runs, BLOCK):
        part = first + tl.arange(0, BLOCK)
        weight = tl.exp2(tl.load(statistics + row * runs + part, mask=part < runs, other=float("-inf")) - highest)
        cell = outputs + (row * runs + part[:, None]) * WIDTH + column[None, :]
        mixed += tl.sum(
            weight[:, None] * tl.load(cell, mask=(part < runs)[:, None] & (column < WIDTH)[None, :], other=0.0), 0
        )
    mixed /= tl.where(total > 0, total, 1.0)
    if ROTATED:
        sign = tl.load(signs + column[:, None] * WIDTH + column[None, :]).to(tl.float32)
        tl.store(result + row * WIDTH + column, tl.sum(sign * mixed[None, :], 1) * norm)
    else:
        tl.store(result + row * WIDTH + column, mixed, mask=column < WIDTH)
