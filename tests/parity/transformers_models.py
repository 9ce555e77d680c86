"""Run transformers' own model code on the meta device and keep what each layer of its cache holds.

    python tests/parity/transformers_models.py --configs DIR --out tests/vectors/transformers_5.23.json

No weights, no arithmetic: tensors have shapes and dtypes only, so a model of any size runs in a second. Bytes are those
of the distinct tensors that a cache layer holds, for one sequence in bf16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kvplan.runtime.meta_parameters import build_on_meta
from kvplan.runtime.verify.decoder_run import (
    held_bytes,
    layer_tensors,
    new_cache,
    parts_of,
    run_decoder,
    storage_bytes,
)
from kvplan.runtime.verify.skeleton import in_dtype

STATIC_TOKENS = 8192
LETTERS = "abcdefghij"


@dataclass
class Measured:
    """Bytes of each layer after a prompt, after one more token, and in a static cache; ``cross`` of the encoder's."""

    prompt: list[int] = field(default_factory=list)
    prompt_storage: int = 0
    decoded: list[int] = field(default_factory=list)
    decoded_storage: int = 0
    static: list[int] | None = None
    cross: list[int] = field(default_factory=list)
    modules: int = 0


def measure(values: Mapping[str, Any], prompt_tokens: int, encoder_tokens: int = 0, static_tokens: int = 0) -> Measured:
    """What every layer holds after ``prompt_tokens``, after one more, and in ``StaticCache(static_tokens)``."""
    model = build_on_meta(in_dtype(values)).eval()
    measured = Measured()
    with torch.no_grad():
        cache = new_cache(model, encoder_tokens=encoder_tokens)
        cache = run_decoder(model, prompt_tokens, cache, encoder_tokens=encoder_tokens)
        held = held_bytes(model, cache)
        measured.prompt, measured.cross, measured.modules = list(held.layers), list(held.cross), held.modules
        measured.prompt_storage = _storage(cache)
        cache = run_decoder(model, 1, cache, encoder_tokens=encoder_tokens)
        measured.decoded = list(held_bytes(model, cache).layers)
        measured.decoded_storage = _storage(cache)
        static = new_cache(model, static_tokens, encoder_tokens) if static_tokens else None
        if static is not None:
            static = run_decoder(model, 64, static, encoder_tokens=encoder_tokens)
            measured.static = list(held_bytes(model, static).layers)
    return measured


def _storage(cache: Any) -> int:
    """Bytes of the distinct storages behind all views."""
    return storage_bytes(tensor for part in parts_of(cache) for layer in layer_tensors(part) for tensor in layer)


def row_of(name: str, values: Mapping[str, Any], lengths: tuple[int, ...], encoder_tokens: int) -> dict[str, Any]:
    """What a config's layers hold at each of ``lengths``, one token after the second, and in ``StaticCache(8192)``."""
    runs = [measure(values, length, encoder_tokens, STATIC_TOKENS if length == lengths[0] else 0) for length in lengths]
    columns = [*(run.prompt for run in runs), runs[1].decoded, runs[0].static or [None] * len(runs[0].prompt)]
    kinds: list[dict[str, Any]] = []
    letters = ""
    for *prompt, decoded, static in zip(*columns, strict=True):
        kind = {"prompt": prompt, "decoded": decoded, "static": static}
        kinds += [] if kind in kinds else [kind]
        letters += LETTERS[kinds.index(kind)]
    return {
        "config": name,
        "tokens": list(lengths),
        "storage": [run.prompt_storage for run in runs],
        "decoded_tokens": lengths[1] + 1,
        "decoded_storage": runs[1].decoded_storage,
        "kinds": kinds,
        "layers": letters,
        **({"encoder_tokens": encoder_tokens, "cross": runs[0].cross} if runs[0].cross else {}),
    }


def main() -> None:
    """Measure every config of a folder that transformers can build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 3000, 12000])
    parser.add_argument("--encoder-tokens", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for path in sorted(arguments.configs.glob("*.json")):
        try:
            row = row_of(path.stem, json.loads(path.read_text()), tuple(arguments.lengths), arguments.encoder_tokens)
        except Exception as problem:  # the models' code raises anything at all on a device without data
            print(f"{path.stem}: {type(problem).__name__}: {problem}")
            continue
        rows.append(json.dumps(row, separators=(",", ":")))
    arguments.out.write_text('{"rows": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
