"""Kept tokens are those that kvpress 0.5.5 keeps on the same small random Llama, in every layer and head.

The vectors were written by ``tests/parity/kvpress_keep_sets.py``; ``tests/parity/test_kvpress.py`` asks kvpress again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kvpress_llama import HEADS, KV_HEADS, LAYERS, keys_and_weights, prompt, state  # noqa: E402

from kvplan.core.policy import Place, kept_tokens  # noqa: E402
from kvplan.policies import get_policy  # noqa: E402
from kvplan.runtime.choose import choose_tokens  # noqa: E402
from kvplan.runtime.selector import Observation  # noqa: E402
from kvplan.runtime.selectors import selector_of  # noqa: E402

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "kvpress_0.5.5.json").read_text())
ROWS: list[dict[str, Any]] = VECTORS["rows"]
NAMES = {"KnormPress": "keynorm", "TOVAPress": "tova", "ObservedAttentionPress": "threshold"}


@cache
def observations(tokens: int) -> list[Observation]:
    """What each layer's selector sees after the prompt."""
    seed, batch = VECTORS["seed"], VECTORS["batch"]
    seen = []
    for keys, attention in keys_and_weights(prompt(batch, tokens, seed + tokens), state(seed)):
        group = attention.unflatten(1, (KV_HEADS, HEADS // KV_HEADS)).mean(2)
        positions = torch.arange(tokens).expand(batch, KV_HEADS, tokens)
        received, seen_by = group.sum(2), tokens - positions
        seen.append(
            Observation(keys=keys, values=keys, positions=positions, received=received, seen_by=seen_by, recent=group)
        )
    return seen


def kept_by_kvpress(row: dict[str, Any], layer: int) -> Any:
    """[batch, kv_heads, kept], ascending."""
    sets = [[bit for bit in range(row["tokens"]) if int(text, 16) >> bit & 1] for text in row["kept"][layer]]
    return torch.tensor(sets).unflatten(0, (-1, KV_HEADS))


def policy_text(row: dict[str, Any]) -> str:
    keep = 1 - Fraction(row["removed"])
    if row["press"] == "StreamingLLMPress":
        return f"window:{max(1, int(keep * row['tokens']) - row['n_sink'])},sinks={row['n_sink']}"
    if row["press"] in NAMES:
        return f"{NAMES[row['press']]}:{keep}"
    options = f"{keep},window={row['window_size']},kernel={row['kernel_size']}"
    return f"snapkv:{options}" if row["press"] == "SnapKVPress" else f"pyramidkv:{options},beta={row['beta']}"


def settled() -> Iterator[tuple[dict[str, Any], int]]:
    """Every row and layer in which kvpress's choice depends on scores."""
    for row in ROWS:
        yield from ((row, layer) for layer in range(LAYERS) if row["kept"][layer] is not None)


@pytest.mark.parametrize("press", sorted({row["press"] for row in ROWS}))
def test_the_same_tokens_are_kept_as_by_kvpress(press: str) -> None:
    cases = [(row, layer) for row, layer in settled() if row["press"] == press]
    assert len(cases) >= 36
    for row, layer in cases:
        policy, theirs = get_policy(policy_text(row)), kept_by_kvpress(row, layer)
        seen = observations(row["tokens"])[layer]
        ours = choose_tokens(selector_of(policy), policy, seen, theirs.shape[-1])
        assert torch.equal(ours, theirs), (policy_text(row), row["tokens"], layer)


def test_counts_are_those_of_kvpress_but_for_its_roundings() -> None:
    """kvpress takes ``int(tokens * (1 - ratio))`` in floats, so that a tenth of 40 tokens is 3, and rounds PyramidKV's
    budgets, fallback included, to the nearest; kvplan's ratios are exact, and rounded down before they are spread.
    Where the sinks are all that kvpress keeps, kvplan keeps the newest token besides."""
    more, fewer = set(), set()
    for row, layer in settled():
        theirs = kept_by_kvpress(row, layer).shape[-1]
        ours = kept_tokens(get_policy(policy_text(row)), row["tokens"], Place(layer, LAYERS))
        assert abs(ours - theirs) <= 1
        if ours > theirs:
            more.add((row["press"], row["tokens"], row["removed"]))
        elif ours < theirs:
            fewer.add((row["press"], Fraction(row["removed"]) * row["tokens"] % 1 > 0))
    assert more == {(press, 40, "0.9") for press in NAMES} | {("StreamingLLMPress", 9, "0.5")}
    assert fewer == {("PyramidKVPress", True)}


def test_a_window_that_outweighs_the_ratio_stays_whole() -> None:
    """kvpress keeps some of the window, whichever its top-k returns first."""
    rows = [row for row in ROWS if row["press"] == "SnapKVPress" and row["tokens"] * (1 - float(row["removed"])) < 60]
    short = [row for row in rows if row["window_size"] == 64]
    assert len(short) >= 3
    for row in short:
        policy = get_policy(policy_text(row))
        assert kept_tokens(policy, row["tokens"], Place(0, LAYERS)) == row["window_size"]
        kept = choose_tokens(selector_of(policy), policy, observations(row["tokens"])[0], row["window_size"])
        assert kept[0, 0].tolist() == list(range(row["tokens"] - row["window_size"], row["tokens"]))
