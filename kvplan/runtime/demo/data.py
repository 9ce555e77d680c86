"""What the demo model reads: prose with facts in it and questions about them, and the tests made of the same stuff.

A fact is stated once, ``The code of kestrel is 48213.``, and asked for later, ``Q: code of kestrel? A: 48213``, with
prose, lists, arithmetic and other facts in between. Everything is ASCII and one token is one byte. A seed fixes all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field
from random import Random

from kvplan.core.errors import UsageError
from kvplan.core.frozen import dataclass
from kvplan.runtime.demo.grammar import Words, expand, pick, whole

STATEMENT = re.compile(rb"The code of ([a-z]{4,6}) is (\d{5})\.")
"""A needle in a text: its key and its value."""
QUESTION = re.compile(rb"Q: code of ([a-z]{4,6})\? A: (\d{5})")
"""A question about a needle, with its answer."""

_CONSONANTS, _VOWELS, _DIGITS = "bcdfghjklmnprstvwz", "aeiou", "0123456789"
_JOBS = ("baker", "smith", "tailor", "doctor", "farmer", "painter", "pilot", "singer", "teacher", "miller", "sailor")
_BYTES_PER_NEEDLE = 120
"""A training document of 2304 bytes has up to 19 needles, one of 256 up to two."""


@dataclass(frozen=True)
class Fact:
    """Something stated once that a question can ask for."""

    subject: str
    relation: str
    value: str
    wording: str

    @property
    def statement(self) -> str:
        """The sentence that states it."""
        return f"{self.wording} "

    @property
    def prompt(self) -> str:
        """The question, up to where the answer starts."""
        return f"\nQ: {self.relation} of {self.subject}? A: "


@dataclass(frozen=True)
class Document:
    """A training text and where its answers lie: (first byte, byte after the last), the closing newline included."""

    text: bytes
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Question:
    """A prompt that holds its own answer. ``choices`` are answers of the same kind, the right one among them.

    ``at`` is the byte at which the sentence with the answer starts.
    """

    prompt: str
    answer: str
    at: int
    choices: tuple[str, ...] = field(default=())


def word(rng: Random, letters: int) -> str:
    """A pronounceable word that probably is none."""
    return "".join(pick(rng, _VOWELS if at % 2 else _CONSONANTS) for at in range(letters))


def needle(rng: Random, avoid: Sequence[str] = ()) -> Fact:
    """A key of 4 to 6 letters, not in ``avoid``, with a value of 5 digits."""
    key = word(rng, whole(rng, 4, 6))
    while key in avoid:
        key = word(rng, whole(rng, 4, 6))
    value = "".join(pick(rng, _DIGITS) for _ in range(5))
    return Fact(key, "code", value, f"The code of {key} is {value}.")


def needles(rng: Random, count: int) -> list[Fact]:
    """Needles with keys that differ."""
    made: list[Fact] = []
    while len(made) < count:
        made.append(needle(rng, [fact.subject for fact in made]))
    return made


def world(rng: Random) -> Words:
    """The people and the places of one document."""
    people = tuple(word(rng, whole(rng, 4, 6)).capitalize() for _ in range(4))
    places = tuple(word(rng, 4).capitalize() + pick(rng, ("ford", "ton", "by", "")) for _ in range(3))
    return {"person": people, "place": places, "job": _JOBS}


def people_facts(rng: Random, words: Words) -> list[Fact]:
    """Where each person of the document lives, what he or she does and what the pet is called."""
    facts: list[Fact] = []
    for person in dict.fromkeys(words["person"]):
        home, job, pet = pick(rng, words["place"]), pick(rng, _JOBS), word(rng, 4).capitalize()
        facts.append(Fact(person, "home", home, f"{person} lives in {home}."))
        facts.append(Fact(person, "job", job, f"{person} works as a {job}."))
        facts.append(Fact(person, "pet", pet, f"{person} has a pet called {pet}."))
    return facts


def filler(rng: Random, words: Words, length: int) -> list[str]:
    """Sentences, lists, code and sums of ``length`` bytes together; the first starts in its middle to fit."""
    pieces: list[str] = []
    missing = length
    while missing > 0:
        pieces.append(_piece(rng, words))
        missing -= len(pieces[-1])
    if pieces:
        pieces.insert(0, pieces.pop()[-missing:])
    return pieces


def passage(rng: Random, length: int) -> str:
    """A text of ``length`` bytes that states facts about its people and asks nothing."""
    words = world(rng)
    facts = people_facts(rng, words)[: length // 300]
    pieces = filler(rng, words, length - sum(len(fact.statement) for fact in facts))
    for fact in facts:
        pieces.insert(whole(rng, min(1, len(pieces)), len(pieces)), fact.statement)
    return "".join(pieces)


def document(rng: Random, length: int) -> Document:
    """A training text of ``length`` bytes: facts at random depths, asked for at the end or anywhere behind them."""
    words = world(rng)
    asked = needles(rng, whole(rng, 1, max(2, length // _BYTES_PER_NEEDLE)))
    about_people = people_facts(rng, words)
    asked += [about_people[whole(rng, 0, len(about_people) - 1)] for _ in range(whole(rng, 0, length // 400))]
    asked = _that_fit(list(dict.fromkeys(asked)), length - length // 5)
    spent = sum(_cost(fact) for fact in asked)
    pieces = filler(rng, words, length - spent)
    at_end = rng.random() < 0.5
    ordered: list[tuple[float, str, str]] = [(float(at), piece, "") for at, piece in enumerate(pieces)]
    for fact in asked:
        stated = rng.random() * len(pieces)
        question = len(pieces) + rng.random() if at_end else stated + rng.random() * (len(pieces) - stated)
        ordered += [(stated, fact.statement, ""), (question, fact.prompt, f"{fact.value}\n")]
    return _joined(sorted(ordered))


def haystack(rng: Random, length: int, depth: float, distractors: int = 0) -> Question:
    """A prompt of ``length`` bytes with a needle at ``depth`` (0 oldest, 1 newest) and a question about it at its end.

    ``distractors`` are needles with other keys, at random depths. The needle starts at the end of the piece of text
    that is nearest to the asked depth. Raises UsageError if the prompt is too short for what it must hold.
    """
    words = world(rng)
    target, *others = needles(rng, 1 + distractors)
    room = length - len(target.statement) - len(target.prompt) - sum(len(other.statement) for other in others)
    if room < 0:
        raise UsageError(f"{length} bytes do not hold {1 + distractors} needles and a question", hint="ask for more")
    pieces = filler(rng, words, room)
    for other in others:
        pieces.insert(whole(rng, 0, len(pieces)), other.statement)
    before, after = _split(pieces, depth)
    prompt = f"{before}{target.statement}{after}{target.prompt}"
    wrong = [fact.value for fact in (*others, *needles(rng, 3))][:3]
    return Question(prompt, target.value, len(before), tuple(sorted((target.value, *wrong))))


def question(rng: Random, length: int) -> Question:
    """A prompt of ``length`` bytes that asks where somebody of the text lives, works or what the pet is called."""
    words = world(rng)
    facts = people_facts(rng, words)
    target = facts[whole(rng, 0, len(facts) - 1)]
    stated = [fact for fact in facts if fact.relation == target.relation]
    room = length - len(target.prompt) - sum(len(fact.statement) for fact in stated)
    if room < 0:
        raise UsageError(f"{length} bytes do not hold {len(stated)} facts and a question", hint="ask for more")
    pieces = filler(rng, words, room)
    for fact in stated:
        pieces.insert(whole(rng, 0, len(pieces)), fact.statement)
    prompt = "".join(pieces) + target.prompt
    others = {"home": words["place"], "job": _JOBS, "pet": [fact.value for fact in stated]}[target.relation]
    choices = tuple(sorted({target.value, *others}))
    return Question(prompt, target.value, prompt.index(target.wording), choices)


def _piece(rng: Random, words: Words) -> str:
    chance = rng.random()
    if chance < 0.84:
        return expand(rng, "sentence", words)
    if chance < 0.90:
        return expand(rng, "list", words)
    if chance < 0.94:
        return expand(rng, "code", words)
    left, right = whole(rng, 2, 60), whole(rng, 2, 60)
    return f"{left} + {right} = {left + right}. "


def _cost(fact: Fact) -> int:
    return len(fact.statement) + len(fact.prompt) + len(fact.value) + 1


def _that_fit(facts: list[Fact], length: int) -> list[Fact]:
    while sum(_cost(fact) for fact in facts) > length:
        facts = facts[:-1]
    return facts


def _joined(ordered: Sequence[tuple[float, str, str]]) -> Document:
    """Pieces and, behind some of them, answers."""
    text, answers = "", []
    for _, piece, answer in ordered:
        text += piece
        if answer:
            answers.append((len(text), len(text) + len(answer)))
        text += answer
    return Document(text.encode("ascii"), tuple(answers))


def _split(pieces: Sequence[str], depth: float) -> tuple[str, str]:
    """The text before and after the boundary nearest to ``depth``."""
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    at = min(ends, key=lambda end: abs(end - depth * ends[-1]))
    text = "".join(pieces)
    return text[:at], text[at:]
