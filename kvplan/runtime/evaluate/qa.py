"""Accuracy on questions: multiple choice by the summed log-probability of each choice, exact match by generation.

Choices are scored through the compressed cache: the last token of the prompt and the choice are fed after the
compression, to as many copies of the cache as there are choices. Exact matches are decoded freely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kvplan.core.errors import UsageError
from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate.answers import FreeRunning, Prompt
from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.question_file import Question, demo_questions, read_questions
from kvplan.runtime.evaluate.shared_prefill import SharedPrefill
from kvplan.runtime.evaluate.tasks import Piece

DEMO_QUESTIONS = 40
"""Asked where neither a file nor a number is given."""

_MORE_TOKENS = 4
"""Tokens of an answer beyond those of the right one, so that a longer one shows."""


@dataclass(frozen=True, kw_only=True)
class QaSettings:
    """``questions`` is a JSONL file (``read_questions``), of which the first ``num_samples`` are asked, or all (None).

    Where there is no file, ``num_samples`` questions of the demo's making are. ``question_aware`` is explained in
    ``kvplan.runtime.evaluate.answers``.
    """

    questions: Path | None = None
    num_samples: int | None = None
    question_aware: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Asked:
    question: Question
    prompt: Prompt
    choices: tuple[tuple[int, ...], ...]
    max_new_tokens: int


def qa(handle: ModelHandle, settings: QaSettings) -> list[Piece]:
    """The task ``qa``: a piece for each question. Raises FileError or SpecError on a bad file.

    Raises UsageError where there is no file and the model is not of the demo's kind.
    """
    if settings.questions is not None:
        asked = read_questions(settings.questions)[: settings.num_samples]
    elif handle.reads_bytes:
        asked = demo_questions(settings.num_samples or DEMO_QUESTIONS, settings.seed)
    else:
        raise UsageError("the task qa has no questions for this model", "give a JSONL file of questions")
    return [_piece(handle, settings, _encoded(handle, one)) for one in asked]


def _piece(handle: ModelHandle, settings: QaSettings, asked: _Asked) -> Piece:
    def measure(methods: Sequence[Method]) -> Iterator[Record]:
        is_right = _choosing(handle, settings, asked) if asked.choices else _saying(handle, settings, asked)
        for method in methods:
            values = {"correct": int(is_right(method))}
            yield Record(task="qa", method=method.text, sample=asked.question.name, values=values)

    return Piece(tasks=("qa",), samples=(asked.question.name,), measure=measure)


def _choosing(handle: ModelHandle, settings: QaSettings, asked: _Asked) -> Callable[[Method], bool]:
    choices = Choices(handle, asked.prompt, asked.choices, question_aware=settings.question_aware)
    return lambda method: asked.question.choices[choices.likeliest(method)] in asked.question.answers


def _saying(handle: ModelHandle, settings: QaSettings, asked: _Asked) -> Callable[[Method], bool]:
    aware, longest = settings.question_aware, asked.max_new_tokens
    prompt = FreeRunning(handle, [asked.prompt], question_aware=aware, max_new_tokens=longest)
    return lambda method: matches(prompt.answers(method)[0], asked.question.answers)


class Choices:
    """A prompt and texts that may follow it, one of which is chosen under one method after another."""

    def __init__(
        self, handle: ModelHandle, prompt: Prompt, choices: Sequence[Sequence[int]], *, question_aware: bool
    ) -> None:
        tokens = (*prompt.context, *prompt.question)
        prefilled = len(tokens) - 1 if question_aware else len(prompt.context)
        self._handle, self._choices, self._shared = handle, choices, tokens[prefilled:]
        self._prefill = SharedPrefill(handle, handle.rows([tokens[:prefilled]]))

    def likeliest(self, method: Method) -> int:
        """The index of the choice whose tokens have the largest summed log-probability behind the prompt."""
        handle, choices, shared = self._handle, self._choices, self._shared
        cache, _ = self._prefill.cache_of(method)
        with torch.inference_mode():
            cache.reorder_cache(torch.zeros(len(choices), dtype=torch.long, device=handle.device))
        longest = max(map(len, choices))
        padded = handle.rows([(*shared, *choice, *[0] * (longest - len(choice))) for choice in choices])
        log_probs = torch.cat(list(handle.score_suffix(cache, padded[:, :-1], padded.shape[1])), dim=1)
        return int(_sums(log_probs[:, len(shared) - 1 :], padded[:, len(shared) :], choices).argmax())


def _sums(log_probs: Tensor, targets: Tensor, choices: Sequence[Sequence[int]]) -> Tensor:
    """[choices]: log-probabilities [choices, tokens, vocabulary] of each choice's own tokens, padding left out."""
    own = log_probs.gather(2, targets[:, :, None])[:, :, 0]
    lengths = torch.tensor([len(choice) for choice in choices], device=own.device)
    counted = torch.arange(own.shape[1], device=own.device)[None] < lengths[:, None]
    return (own * counted).sum(dim=1)


def matches(said: str, answers: Sequence[str]) -> bool:
    """Whether the first line of what was said is one of the answers, but for case, spaces around and a full stop."""
    line = next(iter(said.strip().splitlines()), "")
    return _plain(line) in {_plain(answer) for answer in answers}


def _plain(text: str) -> str:
    return text.strip().rstrip(".").strip().casefold()


def _encoded(handle: ModelHandle, one: Question) -> _Asked:
    """Token ids; a space stands before an answer where the question ends without one."""
    space = "" if one.question[-1].isspace() else " "
    answers = [handle.encode(space + answer) for answer in one.answers]
    return _Asked(
        question=one,
        prompt=Prompt(
            context=(*handle.encode("", start=True), *handle.encode(one.context)),
            question=tuple(handle.encode(one.question)),
        ),
        choices=tuple(tuple(handle.encode(space + choice)) for choice in one.choices),
        max_new_tokens=max(map(len, answers)) + _MORE_TOKENS,
    )
