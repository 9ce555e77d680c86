"""Questions with answers: a JSONL file of the user's, or questions of the demo's making."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from kvplan.core.errors import FileError, SpecError
from kvplan.runtime.demo.data import haystack, question
from kvplan.runtime.evaluate.texts import read_text

_KEYS = {"id", "context", "question", "choices", "answer"}
_EXAMPLE = 'a line is like {"context": "...", "question": "Q: ...?\\nA:", "choices": ["yes", "no"], "answer": "yes"}'
DEMO_BYTES = 512
"""Length of a demo question with its context."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked. With ``choices`` the likeliest of them counts, else what the model says must be in ``answers``.

    The prompt is ``context`` + ``question`` as they stand, without any template; the answer follows, behind a space
    where the question ends without one.
    """

    name: str
    context: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file, one JSON object a line, blank lines left out.

    ``question`` and ``answer`` are required. ``answer`` is a text, a list of texts that are all right, or, with
    ``choices``, the index of the right one. ``context`` is what is prefilled before the question; ``id`` names the
    question, else its line does. Raises FileError, and SpecError with every line that is wrong.
    """
    asked, problems = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            try:
                asked.append(_question(line, f"line {number}"))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    names = [one.name for one in asked]
    problems += [f"id {name!r} is given twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if problems:
        raise SpecError(str(path), problems, _EXAMPLE)
    if not asked:
        raise FileError(f"{path} asks nothing", _EXAMPLE)
    return asked


def demo_questions(count: int, seed: int) -> list[Question]:
    """Questions that the demo model has learnt to answer: about people with choices, about needles without, in turn."""
    rng, asked = Random(f"{seed} questions"), []
    for at in range(count):
        made = question(rng, DEMO_BYTES) if at % 2 == 0 else haystack(rng, DEMO_BYTES, rng.random(), 4)
        context, mark, rest = made.prompt.rpartition("\nQ: ")
        choices = _some_choices(rng, made.answer, made.choices) if at % 2 == 0 else ()
        asked.append(
            Question(name=f"demo {at}", context=context, question=mark + rest, answers=(made.answer,), choices=choices)
        )
    return asked


def _some_choices(rng: Random, answer: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The answer and up to three others, in an order that tells nothing."""
    others = [choice for choice in choices if choice != answer]
    some = sorted(others, key=lambda _: rng.random())[:3]
    return tuple(sorted([answer, *some]))


def _question(line: str, name: str) -> Question:
    """One line. Raises ValueError that says what is wrong with it."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    if unknown := sorted(found.keys() - _KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    choices = _texts(found, "choices") if "choices" in found else ()
    return Question(
        name=str(found.get("id", name)),
        context=_text(found, "context") if "context" in found else "",
        question=_text(found, "question"),
        choices=choices,
        answers=_answers(found, choices),
    )


def _answers(found: Mapping[str, Any], choices: tuple[str, ...]) -> tuple[str, ...]:
    answer = found.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool) and choices:
        if not 0 <= answer < len(choices):
            raise ValueError(f"answer {answer} is no index of {len(choices)} choices, which start at 0")
        return (choices[answer],)
    answers = _texts(found, "answer") if isinstance(answer, list) else (_text(found, "answer"),)
    if choices and not set(answers) <= set(choices):
        raise ValueError(f"answer {answers[0]!r} is not among the choices")
    return answers


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a text" if key in found else f"{key} is missing")
    return value


def _texts(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = found[key]
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        raise ValueError(f"{key} must be a list of texts")
    return tuple(values)
