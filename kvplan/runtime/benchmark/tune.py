"""Times launch configurations of the kernels: ``python -m kvplan.runtime.benchmark.tune [attention|rows]``.

The winners belong into ``kvplan.runtime.kernels.rows`` and, as candidates, ``kvplan.runtime.kernels.decode_attention``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import product

import torch

from kvplan.runtime.benchmark.timing import copy_bytes_per_second, release
from kvplan.runtime.codec import nbytes
from kvplan.runtime.kernels import rows as row_kernels
from kvplan.runtime.kernels.decode_attention import KINDS, Problem, attend
from kvplan.runtime.kernels.tuning import Config, seconds
from kvplan.runtime.quantize import quantize

TOKENS = 65536
BEST_SHOWN = 6
Sweep = Callable[[Iterable[Config], Callable[[Config], object], str, int], None]


def main() -> None:
    """Print the best configurations of each kernel with their share of the copy bandwidth."""
    device = torch.device("cuda")
    copied = copy_bytes_per_second(device, 1 << 30)
    release(device)
    print(f"copy {copied / 1e9:.0f} GB/s")
    what = sys.argv[1:] or ["rows", "attention"]

    def sweep(configs: Iterable[Config], launch: Callable[[Config], object], name: str, moved: int) -> None:
        """Time a launch in every configuration and print the best, as shares of the copy bandwidth."""
        timed = sorted((seconds(launch, config), config) for config in configs)
        for time, config in timed[:BEST_SHOWN]:
            print(f"{name:34}{time * 1e3:8.3f} ms {moved / time / copied:5.0%}  {config}", flush=True)

    if "rows" in what:
        _rows(device, sweep)
    if "attention" in what:
        _attention(device, sweep)


def _rows(device: torch.device, sweep: Sweep) -> None:
    rows = torch.randn(8, 8, TOKENS, 128, dtype=torch.bfloat16, device=device)
    tiles = [Config(block, warps, 1, 1) for block, warps in product((8, 16, 32, 64, 128), (2, 4, 8))]
    stays = [Config(*each) for each in product((64, 128), (4, 8), (1, 2, 3, 4), (1, 2, 3, 4, 6))]
    for name in (*row_kernels.BYTE_FORMATS, row_kernels.NIBBLE_FORMAT):
        configs = stays if name == row_kernels.NIBBLE_FORMAT else tiles
        stored = quantize(rows, name)
        moved = rows.nbytes + nbytes(stored)
        sweep(configs, lambda c, n=name: row_kernels.encode(rows, n, config=c), f"encode {name}", moved)  # type: ignore[misc]
        sweep(
            configs,
            lambda c, n=name, s=stored: row_kernels.decode(s, n, rows.dtype, config=c),  # type: ignore[misc]
            f"decode {name}",
            moved,
        )


def _attention(device: torch.device, sweep: Sweep) -> None:
    rows = [torch.randn(8, 8, TOKENS, 128, dtype=torch.bfloat16, device=device) for _ in range(2)]
    configs = [
        Config(block, warps, stages, waves)
        for (block, warps), stages, waves in product(
            ((32, 1), (32, 2), (64, 1), (64, 2), (64, 4), (128, 2), (128, 4), (256, 8)),
            (2, 3, 4),
            (2, 3, 4, 6, 8, 16, 32),
        )
    ]
    for name in KINDS:
        if name == "fp16":
            continue
        keys, values = ({"codes": part} if name == "bf16" else quantize(part, name) for part in rows)
        for heads in (32, 64):
            query = torch.randn(8, heads, 128, dtype=torch.bfloat16, device=device)
            problem = Problem(query=query, keys=keys, values=values, cache_format=name, softmax_scale=128**-0.5)
            moved = nbytes(keys) + nbytes(values)
            sweep(configs, lambda c, p=problem: attend(p, c), f"{name}, {heads} heads", moved)  # type: ignore[misc]
        release(device)


if __name__ == "__main__":
    main()
