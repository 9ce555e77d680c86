"""Needles in any hay for any tokenizer: sentences of a text, facts among them, prompts of an exact length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kvplan.core.errors import UsageError
from kvplan.runtime.demo.data import haystack, needles
from kvplan.runtime.demo.grammar import whole
from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.texts import prose_ids, read_text

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """Token ids of a context with a needle in it, those of the question about it, and the answer as text."""

    context: tuple[int, ...]
    question: tuple[int, ...]
    answer: str


class DemoHay:
    """Prompts as the demo model has learnt them: a token is a byte."""

    def __init__(self, handle: ModelHandle) -> None:
        self._handle = handle
        self._start = handle.encode("", start=True)

    def stack(self, rng: Random, length: int, depth: float, num_keys: int) -> Haystack:
        """A prompt of ``length`` tokens. Raises UsageError where it has no room for so many needles."""
        asked = haystack(rng, length - len(self._start), depth, num_keys - 1)
        context, mark, question = asked.prompt.rpartition("\nQ: ")
        return Haystack(
            context=(*self._start, *self._handle.encode(context)),
            question=tuple(self._handle.encode(mark + question)),
            answer=asked.answer,
        )


class TextHay:
    """Sentences of a text, or of prose of the demo's making, with needles in plain English among them."""

    def __init__(self, handle: ModelHandle, text: Path | None, longest: int, seed: int) -> None:
        self._handle, self._source = handle, "the demo's prose" if text is None else str(text)
        prose = handle.decode(prose_ids(handle, 2 * longest, seed)) if text is None else read_text(text)
        sentences = [" ".join(sentence.split()) for sentence in _SENTENCE_END.split(prose)]
        self._sentences = [handle.encode(f" {sentence}") for sentence in sentences if sentence]
        self._start = handle.encode("", start=True)

    def stack(self, rng: Random, length: int, depth: float, num_keys: int) -> Haystack:
        """A prompt of ``length`` tokens: sentences from a random one on; the last is cut to fit and moved to the start.

        Raises UsageError where the prompt has no room for the needles, or the text is shorter than the prompt.
        """
        target, *others = needles(rng, num_keys)
        question = self._handle.encode(f"\n\nQuestion: What is the code of {target.subject}?\nAnswer: It is")
        stated = [self._handle.encode(f" {fact.wording}") for fact in (target, *others)]
        room = length - len(self._start) - len(question) - sum(map(len, stated))
        if room < 0:
            raise UsageError(f"{length} tokens do not hold {num_keys} needles and a question", "ask for more tokens")
        pieces = self._hay(rng, room)
        for other in stated[1:]:
            pieces.insert(whole(rng, 0, len(pieces)), other)
        before, after = _split(pieces, depth)
        context = (*self._start, *before, *stated[0], *after)
        return Haystack(context=context, question=tuple(question), answer=target.value)

    def _hay(self, rng: Random, room: int) -> list[list[int]]:
        """Sentences of ``room`` tokens together, in the order of the text, which is read as a circle."""
        total = sum(map(len, self._sentences))
        if total < room:
            raise UsageError(
                f"{self._source} has {total} tokens, fewer than the {room} of hay that a prompt needs",
                "give a longer text or ask for shorter prompts",
            )
        at, pieces, missing = whole(rng, 0, len(self._sentences) - 1), list[list[int]](), room
        while missing > 0:
            pieces.append(self._sentences[at % len(self._sentences)])
            missing -= len(pieces[-1])
            at += 1
        if missing < 0:
            pieces.insert(0, pieces.pop()[-missing:])
        return pieces


def _split(pieces: Sequence[Sequence[int]], depth: float) -> tuple[list[int], list[int]]:
    """The tokens before and after the end of a sentence that is nearest to ``depth``."""
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    at = min(ends, key=lambda end: abs(end - depth * ends[-1]))
    tokens = [token for piece in pieces for token in piece]
    return tokens[:at], tokens[at:]
