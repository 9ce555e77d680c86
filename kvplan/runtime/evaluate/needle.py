"""Does the model still find what it read? A needle in a haystack, over lengths and depths, alone and among others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from random import Random

from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate.answers import FreeRunning, Prompt
from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.haystack import DemoHay, TextHay
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.tasks import Piece, batches, in_batches


@dataclass(frozen=True, kw_only=True)
class NeedleSettings:
    """A grid of ``lengths_tokens`` (the whole prompt) x ``depths`` (0 oldest, 1 newest) x ``num_keys`` needles.

    ``per_cell`` samples each. ``text`` is the hay; None: prose of the demo's making. ``batch_tokens`` bounds what is
    prefilled at once. ``question_aware`` is explained in ``kvplan.runtime.evaluate.answers``.
    """

    lengths_tokens: tuple[int, ...] = (512, 1024, 2048)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    num_keys: tuple[int, ...] = (1, 4)
    per_cell: int = 1
    question_aware: bool = True
    text: Path | None = None
    batch_tokens: int = 8192
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One sample of the grid."""

    name: str
    length_tokens: int
    depth: float
    num_keys: int
    prompt: Prompt
    answer: str


def needle(handle: ModelHandle, settings: NeedleSettings) -> list[Piece]:
    """The task ``needle``. Raises UsageError where a prompt has no room for its needles or the text is too short."""

    def shape(one: Needle) -> tuple[int, int]:
        return one.prompt.shape(settings.question_aware)

    pieces: list[Piece] = []
    for _, alike in groupby(sorted(_needles(handle, settings), key=shape), key=shape):
        group = list(alike)
        size = max(1, settings.batch_tokens // group[0].length_tokens)
        pieces += [_piece(handle, settings, some) for some in batches(group, size)]
    return pieces


def _piece(handle: ModelHandle, settings: NeedleSettings, some: Sequence[Needle]) -> Piece:
    longest = max(len(handle.encode(f" {one.answer}")) for one in some)

    def measure(methods: Sequence[Method]) -> Iterator[Record]:
        aware = settings.question_aware
        prompts = FreeRunning(handle, [one.prompt for one in some], question_aware=aware, max_new_tokens=longest)
        for method, slices in in_batches(methods, len(some)):
            for rows in slices:
                said = prompts.answers(method, rows)
                yield from (_record(method, settings, one, text) for one, text in zip(some[rows], said))

    return Piece(tasks=("needle",), samples=tuple(one.name for one in some), measure=measure)


def _record(method: Method, settings: NeedleSettings, one: Needle, said: str) -> Record:
    values = {
        "length_tokens": one.length_tokens,
        "depth_ratio": one.depth,
        "num_keys": one.num_keys,
        "question_aware": int(settings.question_aware),
        "correct": int(said.strip().startswith(one.answer)),
    }
    return Record(task="needle", method=method.text, sample=one.name, values=values)


def _needles(handle: ModelHandle, settings: NeedleSettings) -> Iterator[Needle]:
    """All samples of the grid, each from a seed of its own, so that a part of a grid has the same ones."""
    as_learnt = handle.reads_bytes and settings.text is None
    longest = max(settings.lengths_tokens)
    hay = DemoHay(handle) if as_learnt else TextHay(handle, settings.text, longest, settings.seed)
    mode = "question in the prompt" if settings.question_aware else "question after it"
    grid = product(settings.lengths_tokens, settings.num_keys, settings.depths, range(settings.per_cell))
    for length, keys, depth, at in grid:
        made = hay.stack(Random(f"{settings.seed} {length} {keys} {depth} {at}"), length, depth, keys)
        name = f"{length} tokens, depth {depth:g}, keys {keys}, {mode}, {at}"
        prompt = Prompt(context=made.context, question=made.question)
        yield Needle(name=name, length_tokens=length, depth=depth, num_keys=keys, prompt=prompt, answer=made.answer)
