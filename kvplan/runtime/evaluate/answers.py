"""Answers in free-running greedy decoding, of which the context was compressed before.

Where the question stands decides much for policies that choose tokens by attention. ``question_aware`` has it inside
the prompt that is compressed, so that they see what will be asked for, as SnapKV is published. The first token of the
answer then comes from the prefill, as in every engine, and all others are read through the cache: an answer of one
token would say nothing. Else the question is fed after the compression, as in the second turn of a talk, and every
token is read through the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.shared_prefill import SharedPrefill


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids of a context and of a question about it."""

    context: tuple[int, ...]
    question: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Of both."""
        return len(self.context) + len(self.question)

    def shape(self, question_aware: bool) -> tuple[int, int]:
        """Tokens that are prefilled, and tokens that are fed after it: those of one shape are read side by side."""
        return (self.num_tokens, 0) if question_aware else (len(self.context), len(self.question))


class FreeRunning:
    """Prompts of one shape, which the model answers under one method after another, up to ``max_new_tokens`` each."""

    def __init__(
        self, handle: ModelHandle, prompts: Sequence[Prompt], *, question_aware: bool, max_new_tokens: int
    ) -> None:
        ids = handle.rows([(*prompt.context, *prompt.question) for prompt in prompts])
        prefilled, _ = prompts[0].shape(question_aware)
        self._handle, self._rest, self._max_new_tokens = handle, ids[:, prefilled:], max_new_tokens
        self._prefill = SharedPrefill(handle, ids[:, :prefilled])
        self._question_aware = question_aware

    def answers(self, method: Method, rows: slice = slice(None)) -> list[str]:
        """What the model says to ``rows`` of the prompts: all, where the method takes batches."""
        handle = self._handle
        cache, first = self._prefill.cache_of(method, rows)
        if not self._question_aware:
            made = handle.generate_after(cache, self._rest[rows], self._max_new_tokens)
            return [handle.decode(row) for row in made]
        made = handle.generate_after(cache, first, self._max_new_tokens - 1)
        return [handle.decode([*start, *row]) for start, row in zip(first.tolist(), made)]
