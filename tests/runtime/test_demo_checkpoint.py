"""The demo model's folder loads with plain transformers, and its training follows the clock."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

from kvplan.runtime.demo import checkpoint, data, recall, train  # noqa: E402
from kvplan.runtime.demo.load import demo_folder  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = checkpoint.build(hidden=64, layers=2, seed=3)
    folder = tmp_path_factory.mktemp("demo")
    checkpoint.save(model, folder, {"steps": 0})
    with torch.no_grad():
        for parameter in model.parameters():  # not .to(bfloat16), which would round the rotary frequencies, too
            parameter.copy_(parameter.to(torch.bfloat16))
    return model.eval(), folder


def test_a_saved_model_loads_with_the_same_logits(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    assert transformers.AutoConfig.from_pretrained(folder).dtype == torch.bfloat16
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = recall.token_rows([data.passage(Random(0), 300)])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_the_card_of_the_demo_model_says_which_step_of_its_training_was_kept() -> None:
    card = json.loads((demo_folder() / "training.json").read_text(encoding="utf-8"))
    kept = next(entry for entry in card["history"] if entry.items() >= card["kept"].items())
    assert kept["text_loss"] == round(card["stored_in_bf16"]["text_loss"], 4)
    assert card["stored_in_bf16"]["recall"]["multi4@2048"] >= 0.95


@pytest.mark.parametrize(
    "text", ["The code of kestrel is 48213.\n", " \t\r\n  two  ", "Ünïcode 漢字 🎉", "<", "".join(map(chr, range(256)))]
)
def test_a_token_is_a_byte_and_a_text_starts_with_bos(saved: tuple[Any, Path], text: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved[1])
    tokens = tokenizer(text)["input_ids"]
    assert tokens == [checkpoint.BOS, *text.encode("utf-8")]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_recall_in_one_pass_is_what_greedy_decoding_gives(saved: tuple[Any, Path]) -> None:
    model, _ = saved
    prompt = data.haystack(Random(5), 200, 0.5, 1).prompt
    tokens = recall.token_rows([prompt])
    made = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=5, do_sample=False)
    said = made[0, tokens.shape[1] :].tolist()
    answer = bytes(token % 128 for token in said).decode("ascii")
    right = data.Question(prompt, answer, 0)
    wrong = data.Question(prompt, "\x00" * 5 if answer[0] != "\x00" else "\x01" * 5, 0)
    expected = all(token < 128 for token in said)
    assert recall.recalled(model, [right, wrong], "cpu") == [expected, False]


def test_batches_are_the_same_whoever_makes_them_and_weigh_answers() -> None:
    text, weights = train.Batches(seed=1, length=256, rows=4, answer_weight=8)[9]
    again, _ = train.Batches(seed=1, length=256, rows=4, answer_weight=8)[9]
    assert torch.equal(text, again)
    assert not torch.equal(text, train.Batches(seed=1, length=256, rows=4, answer_weight=8)[10][0])
    for row, weight in zip(text.tolist(), weights.tolist()):
        for found in data.QUESTION.finditer(bytes(row)):
            assert weight[found.start(2) : found.end(2)] == [8] * 5


def test_the_learning_rate_warms_up_by_steps_and_falls_by_the_clock() -> None:
    assert train.learning_rate(0.3, 0, 1.0) == pytest.approx(0.01)
    assert train.learning_rate(0.3, 500, 1.0) == 1.0
    assert train.learning_rate(0.75, 500, 1.0) == pytest.approx(0.5)
    assert train.learning_rate(1.2, 500, 1.0) == pytest.approx(0.0)


def test_documents_grow_and_the_longest_have_most_of_the_time() -> None:
    plan = train.stages([128, 512, 2304])
    assert [stage.length for stage in plan] == [128, 512, 2304]
    assert [stage.until for stage in plan] == pytest.approx([0.225, 0.45, 1.0])
