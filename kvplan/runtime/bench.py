"""Benchmark of the fused kernels: ``python -m kvplan.runtime.bench [--out results.json] [--quick] [--device cuda]``.

Bytes are those that must be read and written once; bandwidth stands beside that of a plain copy, measured in the same
run. Errors are relative to decoding every row and attending in float32.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kvplan.runtime.benchmark.cases import Bench, Result, Shape
from kvplan.runtime.benchmark.timing import copy_bytes_per_second, release, versions

GIB = 1 << 30


def main() -> None:
    """Measure, print as results come, and write JSON where asked."""
    options = _options()
    device = torch.device(options.device)
    started = time.perf_counter()
    facts = versions(device)
    print(" | ".join(f"{name} {value}" for name, value in facts.items()))
    if device.type != "cuda":
        print("no GPU: small shapes, plain torch; times say nothing about the kernels")
    bench, results = _run(device, options.quick or device.type != "cuda")
    elapsed = time.perf_counter() - started
    for line in bench.skipped:
        print(f"not run: {line}")
    print(f"{elapsed:.0f} s in all")
    if options.out:
        options.out.write_text(json.dumps(_document(facts, bench, results, elapsed), indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kvplan.runtime.bench", description="Benchmark of the fused kernels."
    )
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    parser.add_argument("--quick", action="store_true", help="small shapes, without flex_attention")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cuda:1 or cpu")
    return parser.parse_args()


def _run(device: torch.device, quick: bool) -> tuple[Bench, list[Result]]:
    torch.manual_seed(0)
    on_gpu = device.type == "cuda"
    copied = copy_bytes_per_second(device, (1 << 31 if not quick else 1 << 28) if on_gpu else 1 << 22)
    release(device)
    print(f"copy (torch.clone, bf16): {copied / 1e9:.0f} GB/s read and written")
    bench = Bench(device=device, copy_bytes_per_second=copied, flex=on_gpu and not quick)
    row_shape, attention_shapes = _shapes(on_gpu, quick)
    results = []
    _heading(f"rows bf16 {list(vars(row_shape).values())}", ("format", "GiB", "ms", "GB/s", "of copy"))
    for result in bench.rows(row_shape):
        results.append(result)
        _line(result)
    for shape in attention_shapes:
        title = f"{shape.tokens} tokens, batch {shape.batch}, {shape.heads} query heads, {shape.kv_heads} KV heads"
        _heading(title, ("format", "GiB", "ms", "GB/s", "of copy", "speedup", "error", "torch's"))
        for result in bench.attention(shape):
            results.append(result)
            _line(result)
        release(device)
    return bench, results


def _shapes(on_gpu: bool, quick: bool) -> tuple[Shape, list[Shape]]:
    """The shape of the rows case, and those of attention: 64K and 128K tokens, 32 and 64 query heads."""
    if not on_gpu:
        small = Shape(batch=1, kv_heads=2, heads=8, tokens=256, width=128)
        return small, [small]
    tokens = (8192,) if quick else (65536, 131072)
    attention = [
        Shape(batch=8, kv_heads=8, heads=heads, tokens=count, width=128) for count in tokens for heads in (32, 64)
    ]
    return Shape(batch=8, kv_heads=8, heads=32, tokens=tokens[0], width=128), attention


def _heading(title: str, columns: tuple[str, ...]) -> None:
    print(f"\n{title}")
    print(f"{'':20}{columns[0]:14}" + "".join(f"{name:>{size}}" for name, size in zip(columns[1:], _SIZES)))


_SIZES = (6, 8, 6, 8, 8, 8, 8)


def _line(result: Result) -> None:
    """One line of at most 80 columns."""
    name = result.cache_format.replace("_per_token_head", "/head")
    figures = [
        f"{result.bytes / GIB:.2f}",
        f"{result.seconds * 1e3:.3f}",
        f"{result.bytes_per_second / 1e9:.0f}",
        f"{result.copy_ratio:.0%}",
    ]
    if result.speedup is not None:
        figures += [f"{result.speedup:.2f}x", f"{result.relative_error:.0e}", f"{result.torch_relative_error:.0e}"]
    cells = "".join(f"{figure:>{size}}" for figure, size in zip(figures, _SIZES))
    print(f"{result.what:20}{name:12}{cells}", flush=True)


def _document(facts: dict[str, str], bench: Bench, results: list[Result], elapsed: float) -> dict[str, Any]:
    return {
        "versions": facts,
        "copy_bytes_per_second": bench.copy_bytes_per_second,
        "seconds": elapsed,
        "results": [{**asdict(result), "bytes_per_second": result.bytes_per_second} for result in results],
        "skipped": bench.skipped,
    }


if __name__ == "__main__":
    main()
