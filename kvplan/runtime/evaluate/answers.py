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


def free_running(
    handle: ModelHandle,
    method: Method,
    prompts: Sequence[Prompt],
    *,
    question_aware: bool,
    max_new_tokens: int,
) -> list[str]:
    """What the model says to prompts of one shape, up to ``max_new_tokens`` each."""
    ids = handle.rows([(*prompt.context, *prompt.question) for prompt in prompts])
    prefilled, _ = prompts[0].shape(question_aware)
    cache = handle.new_cache(method)
    first = handle.prefill(ids[:, :prefilled], cache)
    if not question_aware:
        made = handle.generate_after(cache, ids[:, prefilled:], max_new_tokens)
        return [handle.decode(row) for row in made]
    rest = handle.generate_after(cache, first, max_new_tokens - 1)
    return [handle.decode([*start, *row]) for start, row in zip(first.tolist(), rest)]
