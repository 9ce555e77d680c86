"""kvpress 0.5.5's own presses on a small random Llama: which tokens each layer and head keeps after a prompt.

Runs in an environment with ``torch==2.13.0 transformers==5.23.0`` and ``kvpress==0.5.5`` installed with ``--no-deps``;
kvplan is not needed. Transformers 5.2.0, which kvpress asks for, gives the same rows.

    python tests/parity/kvpress_keep_sets.py --out tests/vectors/kvpress_0.5.5.json

A kept set is a hexadecimal number whose bit i stands for token i. It is null where kvpress keeps but a part of a window
or of the sinks, all of which have the same score, so that its top-k decides which. A case is refused where two scores
at the border lie so close together that another machine might order them the other way round.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import kvpress
import torch
from kvpress_llama import CONFIG, HEAD_DIM, keys_and_weights, prompt, state
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

BATCH, SEED, LEAST_GAP = 2, 7, 1e-5
LENGTHS = (9, 40, 97, 203)
REMOVED = ("0.25", "0.5", "0.7", "0.9")
PRESSES: tuple[tuple[str, dict[str, int]], ...] = (
    ("KnormPress", {}),
    ("TOVAPress", {}),
    ("ObservedAttentionPress", {}),
    ("StreamingLLMPress", {"n_sink": 4}),
    ("SnapKVPress", {"window_size": 8, "kernel_size": 5}),
    ("SnapKVPress", {"window_size": 64, "kernel_size": 5}),
    ("SnapKVPress", {"window_size": 8, "kernel_size": 7}),
    ("PyramidKVPress", {"window_size": 8, "kernel_size": 5, "beta": 20}),
    ("PyramidKVPress", {"window_size": 8, "kernel_size": 5, "beta": 4}),
)


def rows() -> Iterator[dict[str, Any]]:
    """One row per press, length and ratio that kvpress takes: a window must be shorter than the prompt."""
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation="eager")).eval()
    model.load_state_dict(state(SEED), strict=False)
    model.tie_weights()
    for tokens in LENGTHS:
        ids = prompt(BATCH, tokens, SEED + tokens)
        full = [layer.keys for layer in _prefill(model, ids).layers]
        for keys, (own, _) in zip(full, keys_and_weights(ids, state(SEED))):
            torch.testing.assert_close(own, keys, rtol=1e-4, atol=1e-5)
        for name, options in PRESSES:
            for removed in REMOVED:
                if tokens > options.get("window_size", 0):
                    kept = _kept(model, ids, full, getattr(kvpress, name)(float(removed), **options))
                    yield {"press": name, **options, "tokens": tokens, "removed": removed, "kept": kept}


def _prefill(model: LlamaForCausalLM, ids: Tensor) -> DynamicCache:
    cache = DynamicCache()
    with torch.no_grad():
        model.model(ids, past_key_values=cache, cache_position=torch.arange(ids.shape[1]))
    return cache


def _kept(model: LlamaForCausalLM, ids: Tensor, full: list[Tensor], press: Any) -> list[list[str] | None]:
    """[layer][sequence * kv_heads + head], found by looking up the keys that are left among all keys."""
    scores, score = [], press.score
    press.score = lambda *given: scores.append(score(*given)) or scores[-1]
    with press(model):
        cache = _prefill(model, ids)
    kept = []
    for layer, keys, scored in zip(cache.layers, full, scores):
        flat_full, flat_left = keys.flatten(0, 1), layer.keys.flatten(0, 1)
        same = (flat_left[:, :, None] == flat_full[:, None]).all(-1)
        assert same.sum(-1).eq(1).all(), "two tokens have the same key"
        settled = _settled(scored.flatten(0, 1), layer.keys.shape[2])
        kept.append([_bits(mask) for mask in same.any(1)] if settled else None)
    return kept


def _bits(mask: Tensor) -> str:
    return f"{sum(1 << index for index in mask.nonzero().flatten().tolist()):x}"


def _settled(scores: Tensor, kept: int) -> bool:
    """Whether the scores decide; False where the border runs through a window. Refuses near ties."""
    ordered = scores.double().sort(dim=-1, descending=True).values
    last, next_best = ordered[:, kept - 1], ordered[:, min(kept, ordered.shape[1] - 1)]
    if kept == ordered.shape[1] or (next_best == ordered[:, 0]).all():
        return kept == ordered.shape[1]
    assert (last - next_best > LEAST_GAP * last.abs()).all(), "scores at the border nearly tie: take another seed"
    return True


def main() -> None:
    """Write the vectors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    head = {"engine": "kvpress", "version": importlib.metadata.version("kvpress"), "date": str(date.today())}
    head |= {"torch": torch.__version__, "transformers": importlib.metadata.version("transformers")}
    head |= {"seed": SEED, "batch": BATCH, "head_dim": HEAD_DIM}
    lines = ",\n  ".join(json.dumps(row) for row in rows())
    out.write_text(json.dumps(head)[:-1] + f', "rows": [\n  {lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
