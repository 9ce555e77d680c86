"""The demo model's text: the same from every seed, facts where they were asked for, answers that the text holds."""

from __future__ import annotations

import hashlib
import re
from random import Random

import pytest

from kvplan.core.errors import UsageError
from kvplan.runtime.demo.data import QUESTION, STATEMENT, document, haystack, needles, passage, question

LENGTHS = (64, 256, 768, 2304)
SEEDS = range(12)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_document_is_ascii_of_the_asked_length(seed: int, length: int) -> None:
    text = document(Random(seed), length).text
    assert len(text) == length
    assert text.decode("ascii").encode("ascii") == text


def test_a_seed_gives_the_same_bytes_in_every_python() -> None:
    rng = Random(7)
    made = document(rng, 2304).text + passage(rng, 1000).encode() + haystack(rng, 2048, 0.5, 4).prompt.encode()
    assert hashlib.sha256(made).hexdigest() == "142442dfc7489973e2ef89eeadeabc29819c5638a7ede6b007af42b1fcd0f2b7"
    assert document(Random(8), 2304) != document(Random(7), 2304)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_question_of_a_document_was_answered_before_it_was_asked(seed: int) -> None:
    made = document(Random(seed), 2304)
    asked = list(QUESTION.finditer(made.text))
    assert asked
    for match in asked:
        stated = dict(found.groups() for found in STATEMENT.finditer(made.text, 0, match.start()))
        assert stated[match[1]] == match[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_answers_of_a_document_are_what_follows_its_prompts(seed: int) -> None:
    made = document(Random(seed), 2304)
    found = [match.span(1) for match in re.finditer(rb"\nQ: \w+ of \w+\? A: (\w+\n)", made.text)]
    assert found == list(made.answers)


def test_distances_reach_from_a_sentence_to_nearly_the_whole_document() -> None:
    distances = []
    for seed in range(60):
        text = document(Random(seed), 2304).text
        at = {match[1]: match.start() for match in STATEMENT.finditer(text)}
        distances += [match.start() - at[match[1]] for match in QUESTION.finditer(text)]
    assert min(distances) < 128
    assert max(distances) > 2048
    assert sum(distance > 1024 for distance in distances) > 0.2 * len(distances)


@pytest.mark.parametrize("distractors", [0, 4, 8])
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("length", [512, 2048])
def test_a_needle_lies_at_the_asked_depth_among_its_distractors(length: int, depth: float, distractors: int) -> None:
    asked = haystack(Random(length + distractors), length, depth, distractors)
    assert len(asked.prompt) == length
    prompt = asked.prompt.encode()
    stated = {match[1]: match for match in STATEMENT.finditer(prompt)}
    assert len(stated) == 1 + distractors
    key = re.search(rb"\nQ: code of (\w+)\? A: $", prompt)
    assert key is not None
    needle = stated[key[1]]
    assert needle[2].decode() == asked.answer
    assert needle.start() == asked.at
    end = len(prompt) - len(key[0]) - len(needle[0])
    longest_piece = 200  # bytes of the longest sentence or list, which no needle splits; half of it to either side
    assert abs(asked.at - depth * end) <= longest_piece / 2
    assert (asked.at == 0) == (depth == 0)
    assert len(set(asked.choices)) == 4
    assert asked.answer in asked.choices


@pytest.mark.parametrize("seed", SEEDS)
def test_a_question_about_a_person_is_answered_in_its_prompt(seed: int) -> None:
    asked = question(Random(seed), 1024)
    assert len(asked.prompt) == 1024
    sentence = asked.prompt[asked.at :].split(".")[0]
    person = re.search(r"\nQ: (home|job|pet) of (\w+)\? A: $", asked.prompt)
    assert person is not None
    assert sentence.startswith(person[2])
    assert sentence.endswith(f" {asked.answer}")
    assert asked.answer in asked.choices
    assert len(asked.choices) >= 2


def test_needles_have_keys_that_differ_and_values_of_five_digits() -> None:
    made = needles(Random(0), 200)
    assert len({fact.subject for fact in made}) == 200
    for fact in made:
        assert STATEMENT.fullmatch(fact.statement.strip().encode())


def test_a_passage_asks_nothing() -> None:
    text = passage(Random(3), 3000)
    assert len(text) == 3000
    assert "Q:" not in text


def test_a_prompt_that_is_too_short_is_refused() -> None:
    with pytest.raises(UsageError, match="do not hold 9 needles"):
        haystack(Random(0), 200, 0.5, 8)
