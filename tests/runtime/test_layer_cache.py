"""The cache of a layer and of a stack of layers in plain torch, against attention written out in full."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvplan.core.attention import FullAttention, IndexKeys, Latent, LayerKind, NoCache, SlidingWindow
from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.geometry import CacheChoice, PlacedKind, group_kinds, place_layers, store_kind
from kvplan.core.model import Layer
from kvplan.core.policy import Place, kept_tokens
from kvplan.policies import get_policy

pytest.importorskip("torch")
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvplan.runtime import masked_attention
from kvplan.runtime.cache import KVCache
from kvplan.runtime.layer_cache import LayerCache, chooses_tokens
from kvplan.runtime.masked_attention import Scoring, Visibility, attend, attend_and_watch
from kvplan.runtime.words import parse_choice

FULL = FullAttention(num_kv_heads=2, head_dim=32)
WINDOWED = SlidingWindow(num_kv_heads=2, head_dim=32, window=12)


def layer(kind: LayerKind, kv_dtype: str = "auto", policy: str = "none", native: str = "bf16") -> LayerCache:
    choice = parse_choice(kv_dtype, policy, native)
    return LayerCache(PlacedKind(kind=kind, kv_format=choice.kv_format, place=Place(0, 1)), choice)


def cache(kind: LayerKind, policy: str) -> KVCache:
    return KVCache([(kind,)], parse_choice("auto", policy, "fp32"))


def states(tokens: int, heads: int, seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, heads, tokens, 32, generator=torch.Generator().manual_seed(seed))


def weights_of(query: Tensor, key: Tensor, window: int | None = None) -> Tensor:
    """Causal attention weights of all tokens, written out; query heads in groups over key heads."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
    distance = torch.arange(key.shape[2])[:, None] - torch.arange(key.shape[2])
    hidden = (distance < 0) | (distance >= (window or key.shape[2]))
    return logits.masked_fill(hidden, -torch.inf).softmax(-1)


def group_mean(weights: Tensor) -> Tensor:
    return weights.unflatten(1, (2, -1)).mean(2)


def test_a_step_returns_old_rows_decoded_and_new_rows_as_they_came() -> None:
    held = layer(FULL, "int8")
    first, second = states(5, 2, 0).bfloat16(), states(1, 2, 1).bfloat16()
    assert torch.equal(held.append(first, first)[0], first)
    held.settle()
    full = held.append(second, second)[1]
    assert torch.equal(full[:, :, 5:], second)
    assert not torch.equal(full[:, :, :5], first)
    torch.testing.assert_close(full[:, :, :5], first, atol=0.02, rtol=0.02)


def test_the_acts_of_a_step_come_in_order() -> None:
    held = layer(FULL, policy="tova")
    with pytest.raises(RuntimeError, match="append rows before"):
        held.settle()
    held.append(states(5, 2, 0), states(5, 2, 1))
    with pytest.raises(RuntimeError, match="must be shown the attention"):
        held.settle()
    with pytest.raises(RuntimeError, match="not settled"):
        held.append(states(5, 2, 0), states(5, 2, 1))


@pytest.mark.parametrize("steps", [[30], [10, 20], [1] * 30, [25, 1, 1, 3]])
@pytest.mark.parametrize("kind", [FULL, WINDOWED])
def test_attention_over_a_lossless_cache_is_attention_over_everything(kind: LayerKind, steps: list[int]) -> None:
    query, key, value = states(30, 6, 0), states(30, 2, 1), states(30, 2, 2)
    whole = cache(kind, "none")
    outputs = [
        whole.attend(0, *part) for part in zip(query.split(steps, 2), key.split(steps, 2), value.split(steps, 2))
    ]
    expected = weights_of(query, key, kind.window_tokens) @ value.repeat_interleave(3, dim=1)
    torch.testing.assert_close(torch.cat(outputs, 2), expected)
    assert whole.layer(0).num_tokens == min(30, kind.window_tokens or 30)
    newest = key[:, :, -(kind.window_tokens or 30) :]
    assert torch.equal(whole.read(0)[0], newest)


def brute_force_h2o(weights: Tensor, prompt: int, keep: int) -> list[set[int]]:
    """H2O as published (arXiv 2306.14048, algorithm 1) on one head's weights [queries, tokens] of tokens not dropped.

    Takes logits' weights anew at every step, over what is held only.
    """
    held = list(range(prompt))
    sums = {token: float(weights[:prompt, token].sum()) for token in held}
    kept_sets = []
    for step in range(prompt, weights.shape[0] + 1):
        kept = max(1, step // keep)
        recent = kept - kept // 2
        older = sorted(held[: len(held) - recent], key=lambda token: -sums[token])
        held = sorted(older[: kept - recent]) + held[len(held) - recent :]
        kept_sets.append(set(held))
        if step < weights.shape[0]:
            row = weights[step, [*held, step]]
            for token, weight in zip([*held, step], row / row.sum()):
                sums[token] = sums.get(token, 0.0) + float(weight)
            held.append(step)
    return kept_sets


def test_h2o_holds_what_brute_force_on_the_attention_matrix_holds() -> None:
    query, key, value = (states(40, 2, seed, batch=1) for seed in (0, 1, 2))
    weights = weights_of(query * 3, key)
    expected = [brute_force_h2o(weights[0, head], prompt=20, keep=4) for head in range(2)]
    held = cache(FULL, "h2o:keep=1/4")
    held.attend(0, query[:, :, :20] * 3, key[:, :, :20], value[:, :, :20])
    for step in range(20, 41):
        positions = held.layer(0).positions()[0].tolist()
        assert [set(head) for head in positions] == [kept[step - 20] for kept in expected]
        if step < 40:
            held.attend(0, query[:, :, step : step + 1] * 3, key[:, :, step : step + 1], value[:, :, step : step + 1])
    assert positions[0] != positions[1]  # heads choose on their own, or this test shows little


@pytest.mark.parametrize("policy", ["h2o:keep=0.5", "tova:keep=0.4", "keynorm", "window:6,sinks=2"])
@pytest.mark.parametrize("kind", [FULL, WINDOWED])
def test_attention_after_pruning_is_attention_over_the_tokens_held(kind: LayerKind, policy: str) -> None:
    query, key, value = states(24, 4, 0), states(24, 2, 1), states(24, 2, 2)
    pruned = cache(kind, policy)
    pruned.attend(0, query[:, :, :20], key[:, :, :20], value[:, :, :20])
    positions = pruned.layer(0).positions().long()
    assert positions.shape[2] == kept_tokens(get_policy(policy), min(20, kind.window_tokens or 20), Place(0, 1))
    output = pruned.attend(0, query[:, :, 20:], key[:, :, 20:], value[:, :, 20:])
    held = torch.zeros(2, 2, 24, dtype=torch.bool).scatter(2, positions, True)
    held[:, :, 20:] = True
    distance = torch.arange(20, 24)[:, None] - torch.arange(24)
    visible = held[:, :, None] & (distance >= 0) & (distance < (kind.window_tokens or 24))
    expected = scaled_dot_product_attention(
        query[:, :, 20:],
        key.repeat_interleave(2, 1),
        value.repeat_interleave(2, 1),
        attn_mask=visible.repeat_interleave(2, 1),
    )
    torch.testing.assert_close(output, expected)


def test_a_windowed_layer_keeps_tokens_inside_the_window_only() -> None:
    pruned = cache(WINDOWED, "keynorm:keep=0.5")
    for step in range(40):
        pruned.attend(0, *(states(1, 2, 3 * step + part) for part in range(3)))
        positions = pruned.layer(0).positions()
        assert positions.shape[2] == max(1, min(step + 1, 12) // 2)
        assert int(positions.min()) > step - 12


def test_sinks_of_a_window_stay_where_the_model_has_them() -> None:
    kind = replace(WINDOWED, num_sink_tokens=3)
    held = cache(kind, "none")
    for step in range(20):
        held.append(0, states(1, 2, step), states(1, 2, step))
    assert held.layer(0).positions().flatten().tolist() == [0, 1, 2, *range(8, 20)]
    assert torch.equal(held.read(0)[0][:, :, 1:2], states(1, 2, 1))


def test_padding_goes_first_and_sinks_are_the_first_real_tokens() -> None:
    held = layer(FULL, policy="window:3,sinks=2")
    held.padding = torch.tensor([[True] * 4 + [False] * 6, [False] * 10])
    held.append(states(10, 2, 0), states(10, 2, 1))
    held.settle()
    assert held.positions()[:, 0].tolist() == [[4, 5, 7, 8, 9], [0, 1, 7, 8, 9]]


def test_special_tokens_are_marked_by_position_whatever_the_padding() -> None:
    held = layer(FULL, policy="importance:keep=0.2,attention=0,recency=0,special=1")
    held.padding = torch.tensor([[True] * 3 + [False] * 7, [False] * 10])
    held.special = torch.zeros(2, 6, dtype=torch.bool)
    held.special[0, 4] = held.special[1, 2] = True
    held.append(states(10, 2, 0), states(10, 2, 1))
    held.settle()
    assert held.positions()[:, 1].tolist() == [[4, 9], [2, 9]]


@pytest.mark.parametrize("policy", ["none", "h2o:keep=0.5", "tiers:4=bf16,rest=int8"])
def test_selected_sequences_go_on_as_if_they_had_been_there_from_the_start(policy: str) -> None:
    index = torch.tensor([1, 1, 0])
    moved, plain = cache(FULL, policy), cache(FULL, policy)
    first = [states(12, 2, seed) for seed in range(3)]
    moved.attend(0, *first)
    plain.attend(0, *(part[index] for part in first))
    moved.layer(0).select_sequences(index)
    second = [states(2, 2, seed, batch=3) for seed in range(5, 8)]
    assert torch.equal(moved.attend(0, *second), plain.attend(0, *second))
    assert moved.stored_bytes() == plain.stored_bytes() == [moved.layer(0).predicted_bytes(3)]


def test_crop_takes_back_the_newest_tokens_of_a_cache_that_dropped_none() -> None:
    held = layer(FULL, "int8")
    held.append(states(10, 2, 0), states(10, 2, 1))
    held.settle()
    before = held.read(torch.float32)[0]
    held.crop(3)
    assert held.seen_tokens == held.num_tokens == 7
    assert torch.equal(held.read(torch.float32)[0], before[:, :, :7])


@pytest.mark.parametrize(("kind", "policy"), [(WINDOWED, "none"), (FULL, "keynorm"), (FULL, "tiers:4=bf16,rest=int8")])
def test_crop_is_refused_where_dropped_tokens_would_have_to_return(kind: LayerKind, policy: str) -> None:
    held = layer(kind, policy=policy)
    held.append(states(20, 2, 0), states(20, 2, 1))
    held.settle()
    with pytest.raises(UnsupportedError, match="cannot go back"):
        held.crop(1)


@pytest.mark.parametrize(
    ("policy", "chooses"),
    [
        ("none", False),
        ("h2o:keep=1", False),
        ("snapkv:keep=1", False),
        ("tiers:4=bf16,rest=drop", False),
        ("threshold:keep=1,threshold=0.01", True),
        ("window:1000000", True),
        ("tova:keep=0.99", True),
    ],
)
def test_a_policy_chooses_tokens_unless_it_keeps_all_or_goes_by_age(policy: str, chooses: bool) -> None:
    assert chooses_tokens(get_policy(policy)) == chooses


@pytest.mark.parametrize("chunk", [1, 40, 1 << 26])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_watched_attention_is_attention_and_its_weights(
    chunk: int, softcap: float | None, sinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_attention, "_CPU_CHUNK_ELEMENTS", chunk * 12)
    query, key, value = states(6, 4, 0), states(9, 2, 1), states(9, 2, 2)
    positions = torch.tensor([0, 2, 5, 6, 7, 8, 9, 10, 11]).expand(2, 2, 9)
    sight = Visibility(positions=positions, first_query=6, window=7)
    logits = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.5
    logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
    distance = torch.arange(6, 12)[:, None] - positions[0, 0]
    logits = logits.masked_fill((distance < 0) | (distance >= 7), -torch.inf)
    sink = torch.randn(4) if sinks else None
    if sink is not None:
        logits = torch.cat([logits, sink.reshape(1, 4, 1, 1).expand(2, 4, 6, 1)], dim=-1)
    weights = logits.softmax(-1)[..., :9]
    scoring = Scoring(scale=0.5, softcap=softcap, sinks=sink)
    output, watched = attend_and_watch(query, key, value, sight, scoring, stored_heads=2, recent_queries=0)
    torch.testing.assert_close(output, weights @ value.repeat_interleave(2, 1))
    torch.testing.assert_close(watched.received, group_mean(weights).sum(2))
    output, watched = attend_and_watch(query, key, value, sight, scoring, stored_heads=2, recent_queries=3)
    torch.testing.assert_close(output, weights @ value.repeat_interleave(2, 1))
    torch.testing.assert_close(watched.recent, group_mean(weights)[:, :, -3:])
    torch.testing.assert_close(attend(query, key, value, sight, scoring), output)


def test_a_prefill_of_which_only_the_newest_queries_are_watched_is_the_same_attention() -> None:
    query, key, value = states(9, 4, 0), states(9, 2, 1), states(9, 2, 2)
    sight = Visibility(positions=torch.arange(9).expand(2, 2, 9), first_query=0)
    scoring = Scoring(scale=0.5)
    all_watched = attend_and_watch(query, key, value, sight, scoring, stored_heads=2, recent_queries=9)
    few_watched = attend_and_watch(query, key, value, sight, scoring, stored_heads=2, recent_queries=2)
    torch.testing.assert_close(few_watched[0], all_watched[0])
    torch.testing.assert_close(few_watched[1].recent, all_watched[1].recent[:, :, -2:])


def test_queries_that_are_padding_count_for_nothing() -> None:
    query, key, value = states(5, 2, 0), states(5, 2, 1), states(5, 2, 2)
    padding = torch.tensor([[True, True, False, False, False], [False] * 5])
    positions = torch.arange(5).expand(2, 2, 5)
    sight = Visibility(positions=positions, first_query=0, padding=padding)
    scoring = Scoring(scale=1.0)
    output, watched = attend_and_watch(query, key, value, sight, scoring, stored_heads=2, recent_queries=0)
    assert torch.equal(watched.received[0, :, :2], torch.zeros(2, 2))
    torch.testing.assert_close(watched.received.sum(-1), torch.tensor([[3.0, 3.0], [5.0, 5.0]]))
    assert output.isfinite().all()


LAYERS: list[Layer] = [(FULL,), (WINDOWED,), (NoCache(),), (FULL,), (FULL,), (WINDOWED,), (FULL,)]


@pytest.mark.parametrize(
    "choice",
    [
        parse_choice("int8"),
        parse_choice("turboquant_4bit_nc"),
        parse_choice("q8_0/q4_0", "pyramidkv:keep=0.5,window=4"),
        parse_choice("int4", native_layers=[0, 3]),
        parse_choice("fp8", native_windows=True),
        parse_choice("int8", "tiers:8=bf16,rest=auto"),
    ],
    ids=["all", "boundary", "pyramid", "skipped", "native_windows", "tiers"],
)
def test_a_stack_stores_what_the_calculator_says_of_its_layers(choice: CacheChoice) -> None:
    stack = KVCache(LAYERS, choice)
    for index in (0, 1, 3, 4, 5, 6):
        stack.attend(index, *(states(40, 2, seed) for seed in range(3)))
    groups = group_kinds(place_layers(LAYERS, choice.kv_format), choice.policy)
    expected = sum(count * store_kind(item, choice, 40, 0).total_bytes for item, count in groups.items())
    assert sum(stack.stored_bytes()) == 2 * expected
    assert stack.stored_bytes()[2] == 0


def test_a_policy_that_needs_attention_must_see_it() -> None:
    with pytest.raises(UsageError, match="needs attention"):
        cache(FULL, "h2o").append(0, states(3, 2, 0), states(3, 2, 1))


def test_layers_without_rows_and_layers_with_two_caches_are_named() -> None:
    with pytest.raises(UsageError, match="layer 0 stores no keys"):
        KVCache([(NoCache(),)], parse_choice()).layer(0)
    with pytest.raises(UnsupportedError, match="latent and index_keys keeps two caches"):
        KVCache([(Latent(kv_lora_rank=64), IndexKeys(head_dim=64))], parse_choice())
