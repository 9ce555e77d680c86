"""Questions with choices and without, on the trained demo model; files of questions and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from kvplan.core.errors import FileError, SpecError
from kvplan.runtime.demo.load import demo_folder
from kvplan.runtime.evaluate.answers import Prompt
from kvplan.runtime.evaluate.harness import ModelHandle, load_model
from kvplan.runtime.evaluate.methods import Method, parse_methods
from kvplan.runtime.evaluate.qa import Choices, QaSettings, matches, qa
from kvplan.runtime.evaluate.question_file import demo_questions, read_questions

DEMO_ACCURACY, WINDOW_ACCURACY = 0.75, 0.4
"""Of 20 questions the demo model answers 0.9, 1.0, 1.0, 1.0 with the seeds 0 to 3, and 0.2, 0.1, 0.2, 0.15 through a
window of 64; with int8 exactly as without. Of 10 questions, one is 0.1."""
LINE = {"question": "Q: sky?\nA:", "answer": "blue"}


@pytest.fixture(scope="module")
def demo() -> ModelHandle:
    return load_model(str(demo_folder()), device="cpu")


def accuracy(handle: ModelHandle, words: str, **settings: Any) -> dict[str, float]:
    found: dict[str, list[int]] = {}
    for piece in qa(handle, QaSettings(**settings)):
        for record in piece.measure(parse_methods(words)):
            found.setdefault(record.method, []).append(record.values["correct"])
    return {method: sum(correct) / len(correct) for method, correct in found.items()}


def written(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("aware", "words"), [(True, "none,int8,window:64"), (False, "none,window:64")])
def test_the_demo_model_knows_the_answers_and_a_short_window_does_not(
    demo: ModelHandle, aware: bool, words: str
) -> None:
    found = accuracy(demo, words, num_samples=10, question_aware=aware)
    assert found["none"] >= DEMO_ACCURACY
    assert found.get("int8_per_token_head", found["none"]) == found["none"]
    assert found["window:window=64,sinks=0"] <= WINDOW_ACCURACY


@pytest.mark.parametrize("aware", [True, False])
def test_the_chosen_choice_is_the_likeliest_whole_text(demo: ModelHandle, aware: bool) -> None:
    """Against each choice in a pass of its own without a cache; choices of unequal length are padded."""
    prompt = Prompt(context=(256, *b"Bavo lives in Kirton. Bavo went out."), question=tuple(b"\nQ: home of Bavo? A: "))
    choices = [b"Kirton\n", b"Kirton and more\n", b"Bavo\n", b"Sunaby\n", b"K"]
    ids = [*prompt.context, *prompt.question]
    sums = []
    for choice in choices:
        row = demo.rows([[*ids, *choice]])
        with torch.inference_mode():
            log_probs = demo.model(input_ids=row, use_cache=False).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        sums.append(float(log_probs.gather(1, row[0, len(ids) :, None]).sum()))
    order = sorted(range(len(choices)), key=lambda at: -sums[at])
    for skipped in range(len(choices) - 1):
        left = [choices[at] for at in sorted(order[skipped:])]
        expected = choices[order[skipped]]
        asked = Choices(demo, prompt, [list(choice) for choice in left], question_aware=aware)
        assert left[asked.likeliest(Method())] == expected


def test_demo_questions_hold_their_answers_and_are_the_same_for_a_seed() -> None:
    asked = demo_questions(12, seed=3)
    assert asked == demo_questions(12, seed=3)
    assert asked != demo_questions(12, seed=4)
    assert [bool(one.choices) for one in asked] == [True, False] * 6
    for one in asked:
        assert one.answers[0] in one.context
        assert not one.choices or one.answers[0] in one.choices


def test_a_file_is_read_with_indices_lists_and_names(tmp_path: Path) -> None:
    path = written(
        tmp_path / "q.jsonl",
        LINE,
        "",
        {**LINE, "id": "sky", "answer": ["blue", "grey"], "context": "Look up. "},
        {**LINE, "choices": ["red", "blue"], "answer": 1},
    )
    first, second, third = read_questions(path)
    assert (first.name, first.context, first.answers) == ("line 1", "", ("blue",))
    assert (second.name, second.context, second.answers) == ("sky", "Look up. ", ("blue", "grey"))
    assert (third.choices, third.answers) == (("red", "blue"), ("blue",))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ({"question": "?"}, "answer is missing"),
        ({**LINE, "choises": []}, "unknown key 'choises'"),
        ({**LINE, "choices": ["red"]}, "not among the choices"),
        ({**LINE, "choices": ["red"], "answer": 1}, "no index"),
        ({**LINE, "choices": []}, "list of texts"),
        ({**LINE, "answer": 3}, "must be a text"),
        ({**LINE, "question": ""}, "must be a text"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(tmp_path: Path, line: dict[str, Any] | str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_questions(written(tmp_path / "q.jsonl", LINE, line))
    assert "line 2: " in caught.value.problems[0]
    assert says in caught.value.problems[0]


def test_files_without_questions_or_with_one_name_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="asks nothing"):
        read_questions(written(tmp_path / "q.jsonl", ""))
    with pytest.raises(SpecError, match="given twice"):
        read_questions(written(tmp_path / "q.jsonl", {**LINE, "id": "a"}, {**LINE, "id": "a"}))


@pytest.mark.parametrize(
    ("said", "right"),
    [(" blue\nQ: next?", True), ("Blue.", True), ("blue sky", False), ("", False), ("\n", False), ("bluer", False)],
)
def test_a_match_is_exact_but_for_case_spaces_and_a_full_stop(said: str, right: bool) -> None:
    assert matches(said, ["blue"]) is right
