"""transformers' own ``generate()`` through kvplan's caches says what kvplan's greedy loop says, on the demo model."""

from __future__ import annotations

from random import Random

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from kvplan.runtime.attention import attending
from kvplan.runtime.demo.data import haystack
from kvplan.runtime.demo.load import demo_folder
from kvplan.runtime.evaluate.answers import FreeRunning, Prompt
from kvplan.runtime.evaluate.harness import ModelHandle, load_model
from kvplan.runtime.evaluate.methods import parse_method
from kvplan.runtime.transformers_cache import CompressedCache

METHODS = {
    "int4": ("int4", "none"),
    "window:64,sinks=4": ("auto", "window:64,sinks=4"),
    "int8+h2o:keep=0.5": ("int8", "h2o:keep=0.5"),
    "snapkv:keep=0.5,window=16": ("auto", "snapkv:keep=0.5,window=16"),
}
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def demo() -> ModelHandle:
    return load_model(str(demo_folder()), device="cpu")


@pytest.mark.parametrize("words", METHODS)
@pytest.mark.parametrize("aware", [True, False])
def test_generate_says_what_the_greedy_loop_says(demo: ModelHandle, words: str, aware: bool) -> None:
    """Both turns: the question inside the prompt that is compressed, and after it, beside the same cache."""
    context, mark, question = haystack(Random(7), 320, 0.5, 1).prompt.rpartition("\nQ: ")
    prompt = Prompt(context=tuple(demo.encode(context, start=True)), question=tuple(demo.encode(mark + question)))
    asked = FreeRunning(demo, [prompt], question_aware=aware, max_new_tokens=NEW_TOKENS)
    said = asked.answers(parse_method(words))

    kv_dtype, policy = METHODS[words]
    cache = CompressedCache.from_words(demo.model.config, kv_dtype, policy, demo.native)
    ids = demo.rows([[*prompt.context, *prompt.question]])
    options = {"past_key_values": cache, "do_sample": False, "max_new_tokens": NEW_TOKENS}
    with torch.inference_mode(), attending(demo.model, cache):
        if not aware:
            demo.model(input_ids=ids[:, : len(prompt.context)], past_key_values=cache, use_cache=True)
        made = demo.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    assert demo.decode(made[0, ids.shape[1] :].tolist()) == said[0]
    assert len(said[0]) >= 5


def test_the_methods_do_not_all_say_the_same(demo: ModelHandle) -> None:
    """Else the test above could not tell one cache from another."""
    prompt = Prompt(context=tuple(demo.encode(haystack(Random(7), 320, 0.1, 1).prompt, start=True)), question=())
    asked = FreeRunning(demo, [prompt], question_aware=True, max_new_tokens=NEW_TOKENS)
    said = {words: asked.answers(parse_method(words))[0] for words in ("none", "window:64,sinks=4")}
    assert said["none"] != said["window:64,sinks=4"]
