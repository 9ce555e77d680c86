"""One prefill for several methods leaves in each cache what a prefill of its own would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvplan.core.errors import UnsupportedError
from kvplan.formats import format_names

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
from tiny_models import FAMILIES, prompt, tiny
from torch import Tensor

from kvplan.runtime.demo.load import demo_folder
from kvplan.runtime.evaluate.harness import ModelHandle, load_model
from kvplan.runtime.evaluate.methods import Method, parse_method
from kvplan.runtime.evaluate.shared_prefill import SharedPrefill
from kvplan.runtime.evaluate.texts import prose_ids

METHODS = (*format_names(), "tiers:6=auto,8=int8,rest=int4", "int4+tiers:6=auto,rest=drop")
CHOOSING = ("fp32+window:16,sinks=2", "fp32+key_norm:keep=0.5")


@pytest.fixture(scope="module")
def demo() -> ModelHandle:
    return load_model(str(demo_folder()), device="cpu")


def handle_of(model: Any) -> ModelHandle:
    silent = SimpleNamespace(eos_token_id=None)
    return ModelHandle(name="tiny", model=model, tokenizer=silent, device=torch.device("cpu"), native="bf16")


def state(cache: Any) -> dict[str, Tensor]:
    """Every tensor of every layer: compressed rows, and what transformers' own layers hold."""
    found = dict(cache.stored_tensors)
    for at, layer in enumerate(cache.layers):
        if layer not in cache.compressed_layers:
            found |= {f"{at}.{name}": value for name, value in vars(layer).items() if isinstance(value, Tensor)}
    return found


def assert_same(one: Any, other: Any, tolerance: float = 0) -> None:
    left, right = state(one), state(other)
    assert list(left) == list(right)
    assert left
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance, equal_nan=True)
    assert one.get_seq_length() == other.get_seq_length()


def test_every_method_gets_what_its_own_prefill_gives(demo: ModelHandle) -> None:
    ids = demo.rows([prose_ids(demo, 150, seed) for seed in (1, 2)])
    shared = SharedPrefill(demo, ids)
    tried = 0
    for words in METHODS:
        method = parse_method(words)
        try:
            own = demo.new_cache(method)
            first = demo.prefill(ids, own)
        except UnsupportedError:  # formats that only latent rows, or other widths, can have
            continue
        cache, token = shared.cache_of(method)
        assert_same(own, cache)
        assert torch.equal(first, token)
        tried += 1
    assert tried >= 20


@pytest.mark.parametrize("words", CHOOSING)
def test_policies_that_do_not_watch_attention_share(demo: ModelHandle, words: str) -> None:
    """They keep the same tokens; their own prefill runs in another kernel, which sums in another order."""
    ids, method = demo.rows([prose_ids(demo, 150, seed) for seed in (1, 2)]), parse_method(words)
    own = demo.new_cache(method)
    token = demo.prefill(ids, own)
    cache, first = SharedPrefill(demo, ids).cache_of(method)
    assert_same(own, cache, tolerance=1e-4)
    for at, layer in cache.layer_caches.items():
        assert torch.equal(layer.positions(), own.layer_caches[at].positions())
    assert demo.generate_after(own, token, 12) == demo.generate_after(cache, first, 12)


def test_what_one_method_decodes_does_not_reach_the_next(demo: ModelHandle) -> None:
    """The recorded rows are shared: a cache that wrote into them would show in the next one."""
    ids = demo.rows([prose_ids(demo, 150, 1)])
    for words in ("none", "fp32", "int8", "window:16,sinks=2"):
        shared = SharedPrefill(demo, ids)
        fresh, first = shared.cache_of(parse_method(words))
        before = {name: value.clone() for name, value in state(fresh).items()}
        said = demo.generate_after(fresh, first, 12)
        again, first = shared.cache_of(parse_method(words))
        assert all(torch.equal(value, before[name]) for name, value in state(again).items())
        assert demo.generate_after(again, first, 12) == said


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_every_kind(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows, chunks, latents and recurrent layers beside attention; a state inside a layer is not shared at all."""
    handle, ids = handle_of(tiny(family)), prompt()
    passes: list[Tensor] = []
    prefill = ModelHandle.prefill
    monkeypatch.setattr(ModelHandle, "prefill", lambda self, *given: passes.append(given[0]) or prefill(self, *given))
    shared, words = SharedPrefill(handle, ids), ("none", "int8", "tiers:6=auto,rest=int4")
    caches = [shared.cache_of(parse_method(word))[0] for word in words]
    assert len(passes) == (len(words) if family == "falcon_h1" else 1)
    for word, cache in zip(words, caches):
        own = handle.new_cache(parse_method(word))
        token = handle.prefill(ids, own)
        assert_same(own, cache)
        assert handle.generate_after(own, token, 6) == handle.generate_after(cache, token, 6)


def test_a_policy_that_watches_attention_reads_the_prompt_itself(demo: ModelHandle) -> None:
    ids = demo.rows([prose_ids(demo, 150, seed) for seed in (1, 2)])
    shared = SharedPrefill(demo, ids)
    shared.cache_of(Method())
    method = parse_method("threshold:0.01")
    alone, token = shared.cache_of(method, slice(1, 2))
    own = demo.new_cache(method)
    assert torch.equal(token, demo.prefill(ids[1:], own))
    assert_same(own, alone)
