"""Does a model still know what it read? Needle recall over lengths and depths, and the loss on plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from kvplan.core.frozen import dataclass
from kvplan.runtime.demo.checkpoint import BOS
from kvplan.runtime.demo.data import Question, haystack, passage, question

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Probe:
    """Questions of one length and kind."""

    name: str
    length: int
    questions: tuple[Question, ...]


def probes(seed: int, lengths: Iterable[int], per_depth: int) -> list[Probe]:
    """Single needles, needles among 4 and 8 others, and questions about people, for each length."""
    rng = Random(seed)
    made: list[Probe] = []
    for length in lengths:
        for name, distractors in (("single", 0), ("multi4", 4), ("multi8", 8)):
            if length >= 80 + 30 * distractors:
                asked = [haystack(rng, length, depth, distractors) for depth in DEPTHS for _ in range(per_depth)]
                made.append(Probe(name, length, tuple(asked)))
        if length >= 256:
            made.append(Probe("people", length, tuple(question(rng, length) for _ in range(5 * per_depth))))
    return made


def token_rows(texts: Iterable[str | bytes]) -> Tensor:
    """[texts, 1 + bytes] token ids, each row started by <bos>. The texts are equally long."""
    encoded = [text.encode("ascii") if isinstance(text, str) else text for text in texts]
    return torch.tensor([[BOS, *text] for text in encoded])


@torch.no_grad()  # type: ignore[untyped-decorator]
def recalled(model: Any, questions: Sequence[Question], device: str, batch: int = 32) -> list[bool]:
    """Whether greedy decoding gives each answer.

    One pass over prompt and answer shows it: decoding goes wrong exactly where the first byte is not the likeliest.
    """
    by_size: dict[int, list[int]] = {}
    for at, asked in enumerate(questions):
        by_size.setdefault(len(asked.prompt) + len(asked.answer), []).append(at)
    right = [False] * len(questions)
    for group in by_size.values():
        for start in range(0, len(group), batch):
            some = group[start : start + batch]
            tokens = token_rows(questions[at].prompt + questions[at].answer for at in some).to(device)
            best = model(input_ids=tokens, use_cache=False).logits[:, :-1].argmax(-1)
            same = (best == tokens[:, 1:]).cpu()
            for row, at in enumerate(some):
                right[at] = bool(same[row, -len(questions[at].answer) :].all())
    return right


@torch.no_grad()  # type: ignore[untyped-decorator]
def text_loss(model: Any, device: str, seed: int, length: int, count: int = 32) -> float:
    """Mean loss in nats a byte over ``count`` plain passages of ``length`` bytes."""
    rng = Random(seed)
    tokens = token_rows(passage(rng, length) for _ in range(count)).to(device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def measure(model: Any, asked: Iterable[Probe], device: str) -> dict[str, float]:
    """Share recalled by kind and length, such as {"single@2048": 0.99}."""
    shares: dict[str, float] = {}
    for probe in asked:
        right = recalled(model, probe.questions, device)
        shares[f"{probe.name}@{probe.length}"] = sum(right) / len(right)
    return shares
