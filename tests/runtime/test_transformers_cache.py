"""The cache for transformers, inside tiny models of several families with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.geometry import group_kinds, place_layers, store_kind
from kvplan.policies import policy_names
from kvplan.specs.config_json import read_config

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
from tiny_models import COMMON, FAMILIES, prompt, tiny
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from kvplan.runtime.attention import attending
from kvplan.runtime.transformers_cache import CompressedCache

PADDED = ("llama", "mistral", "gemma3_text", "gpt_oss", "deepseek_v3", "llama4_text")
POLICIES = {name: name for name in policy_names()} | {
    "window": "window:8,sinks=2",
    "snapkv": "snapkv:keep=0.4,window=4",
    "pyramidkv": "pyramidkv:keep=0.4,window=4",
    "tiers": "tiers:6=auto,8=int8,rest=int4",
    "tiers_drop": "tiers:6=auto,rest=drop",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def logits(model: Any, cache: Any, ids: Tensor, chunks: list[int], mask: Tensor | None = None) -> Tensor:
    """Logits of a forced sequence, run in chunks: a prompt, more of it, and single steps."""
    outputs, seen = [], 0
    for chunk in ids.split(chunks, 1):
        seen += chunk.shape[1]
        shown = None if mask is None else mask[:, :seen]
        outputs.append(model(input_ids=chunk, past_key_values=cache, attention_mask=shown).logits)
    return torch.cat(outputs, 1)


STEPS = [30, 1, 1, 1, 7]


def compressed(model: Any, kv_dtype: str, policy: str, ids: Tensor, **options: Any) -> tuple[Tensor, CompressedCache]:
    cache = CompressedCache.from_words(model.config, kv_dtype, policy)
    with attending(model, cache):
        return logits(model, cache, ids, options.pop("chunks", STEPS), **options), cache


def kld(reference: Tensor, other: Tensor) -> float:
    target = reference.double().log_softmax(-1)
    return float((target.exp() * (target - other.double().log_softmax(-1))).sum(-1).mean())


@pytest.mark.parametrize("policy", ["none", "h2o:keep=1", "pyramidkv:keep=1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sixteen_bits_with_everything_kept_are_bit_for_bit_the_dynamic_cache(family: str, policy: str) -> None:
    model = tiny(family)
    expected = logits(model, DynamicCache(config=model.config), prompt(), STEPS)
    assert torch.equal(compressed(model, "auto", policy, prompt())[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_bits_move_the_logits_less(family: str) -> None:
    model = tiny(family, torch.float32)
    expected = logits(model, DynamicCache(config=model.config), prompt(), STEPS)
    formats = ["auto", "int8", "fp8", "int4"]
    divergence = [kld(expected, compressed(model, name, "none", prompt())[0]) for name in formats]
    assert divergence[0] == 0 < divergence[1]
    assert divergence == sorted(divergence)


@pytest.mark.parametrize("chunks", [[40], [10] * 4, [1] * 40, [17, 23]])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "deepseek_v3", "llama4_text"])
def test_a_prompt_in_chunks_gives_the_logits_of_one_prompt(family: str, chunks: list[int]) -> None:
    model = tiny(family, torch.float32)
    with torch.no_grad():
        expected = model(input_ids=prompt(), use_cache=False).logits
    torch.testing.assert_close(
        compressed(model, "auto", "none", prompt(), chunks=chunks)[0], expected, atol=2e-4, rtol=2e-3
    )


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        *((family, policy) for family in PADDED for policy in ("none", "window:200", "tiers:300=auto,rest=drop")),
        *((family, "tova:keep=0.999999") for family in ("llama", "deepseek_v3")),
    ],
)
def test_a_left_padded_batch_gives_the_logits_of_the_sequences_alone(family: str, policy: str) -> None:
    """``tova:keep=0.999999`` drops one token, and padding before any other."""
    model = tiny(family, torch.float32)
    ids, mask = prompt(40), torch.ones(2, 40, dtype=torch.long)
    mask[0, :6] = mask[1, :2] = 0
    both = compressed(model, "auto", policy, ids, mask=mask)[0]
    for row, start in ((0, 6), (1, 2)):
        with torch.no_grad():
            alone = model(input_ids=ids[row : row + 1, start:], use_cache=False).logits[0]
        torch.testing.assert_close(both[row, start:], alone, atol=2e-4, rtol=2e-3)


@torch.no_grad()
def hidden_logits(model: Any, ids: Tensor, prompt_tokens: int, window: int, sinks: int) -> Tensor:
    """The model without a cache, every query's dropped tokens hidden by a mask of its own."""
    tokens = ids.shape[1]
    query, key = torch.arange(tokens)[:, None], torch.arange(tokens)
    causal = key <= query
    kept = (key >= query - window) | (key < sinks)
    visible = torch.where(query < prompt_tokens, causal, causal & kept)
    mask = torch.zeros(1, 1, tokens, tokens).masked_fill(~visible, torch.finfo(torch.float32).min)
    output: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return output


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v3"])
@pytest.mark.parametrize("sinks", [0, 2])
def test_pruned_tokens_are_hidden_and_the_others_keep_their_positions(family: str, sinks: int) -> None:
    model = tiny(family, torch.float32)
    ids = prompt(40)
    pruned = compressed(model, "auto", f"window:8,sinks={sinks}", ids, chunks=[30] + [1] * 10)[0]
    expected = hidden_logits(model, ids, prompt_tokens=30, window=8, sinks=sinks)
    torch.testing.assert_close(pruned, expected, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "gemma3_text", "mistral", "llama4_text"])
def test_the_attention_of_choosing_policies_is_the_models_own_where_nothing_is_dropped(family: str) -> None:
    """Softcaps, learned sinks, windows and chunks, with weights watched and without."""
    model = tiny(family, torch.float32)
    expected = logits(model, DynamicCache(config=model.config), prompt(), STEPS)
    for policy in ("window:400", "h2o:keep=0.999999999", "threshold:keep=1,threshold=1e-30"):
        if policy.startswith("h2o"):
            policy += ",newest=400"
        close = compressed(model, "auto", policy, prompt())[0]
        torch.testing.assert_close(close, expected, atol=3e-4, rtol=3e-3)


@pytest.mark.parametrize("policy", POLICIES.values())
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "deepseek_v3", "gpt_oss", "falcon_h1"])
def test_every_policy_generates_and_stores_the_predicted_bytes(family: str, policy: str) -> None:
    model = tiny(family)
    ids, mask = prompt(24), torch.ones(2, 24, dtype=torch.long)
    mask[0, :5] = 0
    for options in ({}, {"do_sample": True, "num_return_sequences": 2}, {"num_beams": 2}):
        cache = CompressedCache.from_words(model.config, "int8", policy)
        with attending(model, cache):
            output = model.generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=4, min_new_tokens=4, **options
            )
        assert output.shape[1] == 28
        for layer in cache.layer_caches.values():
            assert layer.seen_tokens == 27
            if "pyramid" not in policy:  # its budgets can grow by two tokens in a step, which one token cannot fill
                assert layer.stored_bytes == layer.predicted_bytes(layer.batch_size)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_from_a_lossless_cache_is_generation(num_beams: int) -> None:
    model = tiny("mistral", torch.float32)
    options = {"max_new_tokens": 8, "num_beams": num_beams, "do_sample": False}
    expected = model.generate(input_ids=prompt(24), **options)
    cache = CompressedCache.from_words(model.config)
    assert torch.equal(model.generate(input_ids=prompt(24), past_key_values=cache, **options), expected)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_zeroed_cache_changes_the_logits(family: str) -> None:
    """The check of all checks above: what is stored is what is read."""
    model = tiny(family)
    cache = CompressedCache.from_words(model.config)
    before, after = prompt(30), prompt(1, seed=5)
    logits(model, cache, before, [30])
    for tensor in cache.stored_tensors.values():
        tensor.zero_()
    changed = model(input_ids=after, past_key_values=cache).logits
    intact = DynamicCache(config=model.config)
    logits(model, intact, before, [30])
    assert kld(model(input_ids=after, past_key_values=intact).logits, changed) > 1e-5


@pytest.mark.parametrize("kv_dtype", ["auto", "int8", "q8_0/q4_0", "ultraquant_4bit", "kivi4", "nvfp4"])
@pytest.mark.parametrize("policy", ["none", "h2o:keep=0.3", "pyramidkv:keep=0.5,window=4", "tiers:8=int8,rest=auto"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "deepseek_v3"])
def test_the_calculator_reads_the_same_config_and_says_the_same_bytes(family: str, policy: str, kv_dtype: str) -> None:
    model = tiny(family)
    values = json.loads(json.dumps(model.config.to_dict(), default=str)) | {"dtype": "bfloat16"}
    layers = read_config(values, "config.json", family).architecture.layers
    cache = compressed(model, kv_dtype, policy, prompt(), chunks=[40])[1]
    groups = group_kinds(place_layers(layers, cache.choice.kv_format), cache.choice.policy)
    expected = sum(count * store_kind(item, cache.choice, 40, 0).total_bytes for item, count in groups.items())
    assert cache.stored_bytes == 2 * expected
    assert cache.stored_bytes == sum(tensor.nbytes for tensor in cache.stored_tensors.values())


def test_the_model_attends_as_before_after_the_context() -> None:
    model = tiny("llama")
    before = model.config._attn_implementation
    cache = CompressedCache.from_words(model.config, policy="tova")
    with attending(model, cache):
        assert model.config._attn_implementation == "kvplan"
    assert model.config._attn_implementation == before
    with pytest.raises(IndexError), attending(model, cache):
        logits(model, cache, torch.full((1, 5), COMMON["vocab_size"]), [5])
    assert model.config._attn_implementation == before


def test_a_policy_that_chooses_tokens_is_refused_outside_attending() -> None:
    model = tiny("llama")
    cache = CompressedCache.from_words(model.config, policy="window:8")
    with pytest.raises(UsageError, match="chooses tokens"):
        logits(model, cache, prompt(), [40])


def test_special_tokens_stay() -> None:
    model = tiny("llama")
    cache = CompressedCache.from_words(model.config, policy="importance:keep=0.2,attention=0,recency=0,special=1")
    marks = torch.zeros(2, 40, dtype=torch.bool)
    marks[:, [3, 11]] = True
    cache.mark_special(marks)
    with attending(model, cache):
        logits(model, cache, prompt(), [39, 1])
    for layer in cache.layer_caches.values():
        positions = layer.positions()
        assert all({3, 11} <= set(head) for sequence in positions.tolist() for head in sequence)


def test_crop_takes_back_a_step_and_says_where_it_cannot() -> None:
    model = tiny("llama")
    cache = CompressedCache.from_words(model.config, "int8")
    first = logits(model, cache, prompt(), [30, 10])[:, 30:]
    cache.crop(-10)
    assert cache.is_croppable
    assert torch.equal(logits(model, cache, prompt()[:, 30:], [10]), first)
    tiers = CompressedCache.from_words(model.config, policy="tiers:4=auto,rest=int8")
    logits(model, tiers, prompt(), [40])
    assert not tiers.is_croppable
    with pytest.raises(UnsupportedError, match="cannot go back"):
        tiers.crop(-1)


def test_a_reset_cache_starts_over() -> None:
    model = tiny("llama")
    cache = CompressedCache.from_words(model.config, "int8")
    first = logits(model, cache, prompt(), [40])
    cache.reset()
    assert cache.get_seq_length() == cache.stored_bytes == 0
    assert torch.equal(logits(model, cache, prompt(), [40]), first)


def test_repeated_and_selected_sequences_follow_the_batch() -> None:
    model = tiny("llama")
    cache = CompressedCache.from_words(model.config, "int8")
    logits(model, cache, prompt(), [40])
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    again = prompt()[[1, 0]]
    other = CompressedCache.from_words(model.config, "int8")
    logits(model, other, again, [40])
    step = prompt(1, seed=7)
    assert torch.equal(logits(model, cache, step, [1]), logits(model, other, step, [1]))


def test_no_policy_chooses_tokens_of_layers_that_others_read() -> None:
    """Gemma 3n's last layers read the rows that an earlier layer has just returned."""
    config = AutoConfig.for_model("gemma3n_text", dtype=torch.bfloat16, num_hidden_layers=4, num_kv_shared_layers=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    switch = attending(model, CompressedCache.from_words(config, policy="h2o"))
    with pytest.raises(UnsupportedError, match="read other layers' caches"):
        switch.__enter__()


def test_a_model_without_keys_and_values_is_refused() -> None:
    config = AutoConfig.for_model("mamba", dtype=torch.bfloat16, num_hidden_layers=2)
    with pytest.raises(UnsupportedError, match="no layer of this model keeps keys and values"):
        CompressedCache.from_words(config)


def test_a_config_without_a_dtype_asks_for_one() -> None:
    config = AutoConfig.for_model("llama", **COMMON)
    with pytest.raises(UsageError, match="dtype"):
        CompressedCache.from_words(config)
    assert CompressedCache.from_words(config, native="fp16").choice.kv_format.key.name == "fp16"
