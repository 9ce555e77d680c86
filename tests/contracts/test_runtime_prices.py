"""Price equals reality: what the calculator says of a layer is what its cache in torch really holds, to the byte.

Every format under every name and every policy is met here by folder scan; one without a codec or a selector fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")
import torch

from kvplan.core.attention import FullAttention, IndexKeys, Latent, LayerKind, SlidingWindow
from kvplan.core.errors import UnsupportedError
from kvplan.core.format import CacheFormat
from kvplan.core.geometry import CacheChoice, PlacedKind, part_bytes, store_kind
from kvplan.core.policy import Place, RetentionPolicy, Tier, kept_tokens
from kvplan.core.registry import modules
from kvplan.formats import get_format, parse_kv_format
from kvplan.formats import names_of as format_names_of
from kvplan.policies import get_policy
from kvplan.policies import names_of as policy_names_of
from kvplan.runtime.layer_cache import LayerCache
from kvplan.runtime.masked_attention import Watched

FORMATS = {get_format(name): name for module in modules("kvplan.formats") for name in format_names_of(module)[::-1]}
TIERS = ("tiers:20=bf16,40=int8,rest=auto", "tiers:20=auto,40=int4,rest=drop", "tiers:8=int8,rest=kivi2")
POLICIES = {
    get_policy(name): name
    for name in [*(name for module in modules("kvplan.policies") for name in policy_names_of(module)[::-1]), *TIERS]
}
"""Value -> name: presets are values of their own, aliases are not."""

KINDS: tuple[LayerKind, ...] = (
    FullAttention(num_kv_heads=2, head_dim=64),
    FullAttention(num_kv_heads=1, head_dim=128, v_head_dim=64),
    SlidingWindow(num_kv_heads=2, head_dim=64, window=50),
    SlidingWindow(num_kv_heads=1, head_dim=64, window=50, num_sink_tokens=3),
    Latent(kv_lora_rank=512, qk_rope_head_dim=64),
    Latent(kv_lora_rank=448, qk_rope_head_dim=64),
    IndexKeys(head_dim=128),
)
APPENDS = ((1, (300,)), (3, (131, 1)), (2, (37, 1, 1, 40)), (1, (1, 1)))
"""(batch, tokens of each append)."""


def small(policy: RetentionPolicy) -> RetentionPolicy:
    """The policy with a window that short contexts fill."""
    names = {field.name for field in dataclasses.fields(policy)}
    return dataclasses.replace(policy, window=16) if "window" in names else policy


def layer(kind: LayerKind, cache_format: CacheFormat, policy: RetentionPolicy, place: Place) -> LayerCache:
    kv_format = dataclasses.replace(parse_kv_format("auto", "bf16"), key=cache_format, value=cache_format)
    tiers = {name: get_format(name) for name in getattr(policy, "format_names", ())}
    choice = CacheChoice(kv_format=kv_format, policy=policy, tier_formats=tiers)
    for part in kind.parts():
        for each in (cache_format, *tiers.values()):
            each.check(part)
    return LayerCache(PlacedKind(kind=kind, kv_format=kv_format, place=place), choice)


def step(cache: LayerCache, batch: int, tokens: int) -> None:
    rows = [torch.randn(batch, part.num_heads, tokens, part.width).bfloat16() for part in cache.parts]
    full = cache.append(*rows)
    if not cache.needs_attention:
        cache.settle()
        return
    weights = torch.rand(batch, full[0].shape[1], min(tokens, max(1, cache.recent_queries)), full[0].shape[2])
    cache.settle(Watched(received=weights.sum(2), recent=weights))


def expected_bytes(cache: LayerCache, held: int, kept: int) -> int:
    """The calculator's bytes; where more would be kept than is still there, those of what is there."""
    context = cache.seen_tokens
    if held == kept:
        return store_kind(cache.item, cache.choice, context, 0).total_bytes
    return sum(part_bytes(part, [Tier(held)], cache.item.kv_format, cache.choice) for part in cache.parts)


def check_prices(cache: LayerCache, batch: int, appends: tuple[int, ...]) -> None:
    """A budget can grow faster than tokens come (PyramidKV's lower layers); dropped tokens do not return then."""
    held = 0
    for tokens in appends:
        step(cache, batch, tokens)
        resident = cache.parts[0].resident_tokens(cache.seen_tokens)
        kept = kept_tokens(cache.choice.policy, resident, cache.item.place)
        held = min(kept, held + tokens)
        assert cache.num_tokens == held
        assert sum(tensor.nbytes for tensor in cache.tensors().values()) == batch * expected_bytes(cache, held, kept)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def held_layers(cache_format: CacheFormat, policy: RetentionPolicy) -> list[LayerCache]:
    """The layer kinds that the format holds, each with another shape of requests after it in ``APPENDS``."""
    layers = []
    for index, kind in enumerate(KINDS):
        with contextlib.suppress(UnsupportedError):
            layers.append(layer(kind, cache_format, policy, Place(index % 5, 5)))
    return layers


@pytest.mark.parametrize("policy", POLICIES, ids=POLICIES.get)
@pytest.mark.parametrize("cache_format", FORMATS, ids=FORMATS.get)
def test_every_format_under_every_policy_stores_the_predicted_bytes(
    cache_format: CacheFormat, policy: RetentionPolicy
) -> None:
    layers = held_layers(cache_format, small(policy))
    assert layers, "the format holds no rows of any kind"
    turn = zlib.crc32(f"{cache_format.name} {policy.name}".encode())  # shapes take turns: all of them for all is slow
    check_prices(layers[turn % len(layers)], *APPENDS[turn // 8 % len(APPENDS)])


@pytest.mark.parametrize("cache_format", FORMATS, ids=FORMATS.get)
def test_every_format_stores_the_predicted_bytes_of_every_kind_of_layer_and_shape(cache_format: CacheFormat) -> None:
    for appends in APPENDS:
        for cache in held_layers(cache_format, get_policy("none")):
            check_prices(cache, *appends)


@pytest.mark.parametrize("policy", POLICIES, ids=POLICIES.get)
def test_every_policy_stores_the_predicted_bytes_in_every_kind_of_layer_and_shape(policy: RetentionPolicy) -> None:
    for name in ("bf16", "int4", "kivi4"):
        for appends in APPENDS:
            for cache in held_layers(get_format(name), small(policy)):
                check_prices(cache, *appends)


@pytest.mark.parametrize("policy", POLICIES, ids=POLICIES.get)
def test_a_prompt_in_one_piece_holds_exactly_what_every_layers_budget_says(policy: RetentionPolicy) -> None:
    """Without the exception above: after a prompt, no budget is larger than what there is to keep."""
    chosen = small(policy)
    for index in range(5):
        cache = layer(KINDS[0], get_format("int8"), chosen, Place(index, 5))
        step(cache, 2, 333)
        assert cache.num_tokens == kept_tokens(chosen, 333, Place(index, 5))
        predicted = 2 * store_kind(cache.item, cache.choice, 333, 0).total_bytes
        assert cache.stored_bytes == cache.predicted_bytes(2) == predicted


def test_a_threshold_keeps_what_passes_it_and_is_planned_for_at_most() -> None:
    policy = get_policy("threshold:keep=1,threshold=0.5")
    cache = layer(KINDS[0], get_format("int8"), policy, Place(0, 1))
    rows = torch.randn(1, 2, 10, 64)
    cache.append(rows, rows)
    received = torch.tensor([10.0, 0, 0, 0, 6, 0, 0, 0, 0, 1]).expand(1, 2, 10)
    cache.settle(Watched(received=received, recent=received[:, :, None]))
    assert cache.positions().tolist() == [[[0, 4, 9]] * 2]
    assert cache.stored_bytes == 3 * 2 * 2 * (64 + 4) < cache.predicted_bytes(1)


def test_bookkeeping_is_apart_from_the_price_and_only_where_tokens_are_chosen() -> None:
    plain = layer(KINDS[0], get_format("int8"), get_policy("none"), Place(0, 1))
    step(plain, 2, 40)
    assert plain.bookkeeping_tensors() == {}
    chosen = layer(KINDS[0], get_format("int8"), get_policy("h2o:keep=0.5"), Place(0, 1))
    step(chosen, 2, 40)
    sizes = {name: tensor.nbytes for name, tensor in chosen.bookkeeping_tensors().items()}
    assert sizes == {"positions": 2 * 2 * 20 * 4, "received": 2 * 2 * 20 * 4}
