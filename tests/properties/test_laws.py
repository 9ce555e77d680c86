"""Laws that hold for every model, format, policy and split."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.core.attention import ChunkedLocal, FullAttention, IndexKeys, Latent, LayerKind, NoCache, SlidingWindow
from kvplan.core.geometry import CacheChoice
from kvplan.core.model import Architecture, Layer, Model
from kvplan.core.parallel import Parallel
from kvplan.core.recurrent import LinearAttention, Mamba2
from kvplan.core.request import SizeRequest, SizeResult
from kvplan.engines import get_engine
from kvplan.formats import parse_kv_format
from kvplan.planning.size import size_model
from kvplan.planning.sweep import compile_curve
from kvplan.policies import get_policy

HEADS = st.sampled_from([1, 2, 4, 8])
ATTENTION = st.one_of(
    st.builds(FullAttention, num_kv_heads=HEADS, head_dim=st.sampled_from([64, 128])),
    st.builds(SlidingWindow, num_kv_heads=HEADS, head_dim=st.just(64), window=st.integers(1, 600)),
    st.builds(ChunkedLocal, num_kv_heads=HEADS, head_dim=st.just(64), chunk_size=st.integers(1, 600)),
    st.just(Latent(kv_lora_rank=512, qk_rope_head_dim=64)),
)
KINDS = st.one_of(
    ATTENTION,
    st.just(IndexKeys(head_dim=128)),
    st.just(NoCache()),
    st.just(LinearAttention(num_heads=8, head_dim=16)),
    st.just(Mamba2(num_heads=8, head_dim=8, state_size=16, num_groups=1, conv_kernel=4)),
)
LAYERS: st.SearchStrategy[list[Layer]] = st.lists(
    st.lists(KINDS, min_size=1, max_size=2).map(tuple), min_size=1, max_size=6
)
FORMATS = ("bf16", "fp8", "int8", "int4", "nvfp4", "int8_per_tensor", "kivi2", "int4_group", "mxfp8", "q8_0", "q4_0")
POLICIES = (
    "none",
    "window:100,sinks=4",
    "h2o:keep=0.2",
    "snapkv:keep=0.5",
    "importance:keep=0.3",
    "threshold:keep=0.9",
)
CONTEXT = st.integers(1, 2000)


def toy(layers: list[Layer]) -> Model:
    architecture = Architecture(layers=tuple(layers), hidden_size=512, num_heads=8, max_context_tokens=None)
    return Model(name="toy", source="test", family="toy", dtype="bf16", architecture=architecture)


def choose(cache_format: str = "bf16", policy: str = "none") -> CacheChoice:
    return CacheChoice(kv_format=parse_kv_format(cache_format, "bf16"), policy=get_policy(policy))


def sized(layers: list[Layer], context: int, choice: CacheChoice | None = None, **fields: object) -> SizeResult:
    request = SizeRequest(context_tokens=context, choice=choice or choose(), **fields)  # type: ignore[arg-type]
    return size_model(toy(layers), request, get_engine("none"))


@given(LAYERS, CONTEXT, CONTEXT, st.sampled_from([name for name in FORMATS if name != "kivi2"]))
def test_a_longer_context_never_takes_less(layers: list[Layer], one: int, other: int, name: str) -> None:
    # KIVI is left out: its keys shrink each time a residual window is quantized
    short, long = sorted((one, other))
    assert sized(layers, short, choose(name)).geometry_bytes <= sized(layers, long, choose(name)).geometry_bytes


@given(LAYERS, CONTEXT, st.integers(1, 9), st.sampled_from(FORMATS), st.sampled_from(POLICIES))
def test_sequences_cost_the_same_each(layers: list[Layer], context: int, count: int, name: str, policy: str) -> None:
    choice = choose(name, policy)
    one = sized(layers, context, choice).geometry_bytes
    assert sized(layers, context, choice, concurrency=count).geometry_bytes == count * one


@given(LAYERS, LAYERS, CONTEXT, st.sampled_from(FORMATS))
def test_layers_add_up(first: list[Layer], second: list[Layer], context: int, name: str) -> None:
    choice = choose(name)
    parts = [sized(layers, context, choice).geometry_bytes for layers in (first, second)]
    assert sized(first + second, context, choice).geometry_bytes == sum(parts)


@given(LAYERS, CONTEXT, st.sampled_from(FORMATS), st.sampled_from(POLICIES))
def test_the_sweep_agrees_with_the_size(layers: list[Layer], context: int, name: str, policy: str) -> None:
    choice = choose(name, policy)
    assert compile_curve(toy(layers), choice).geometry_bytes(context) == sized(layers, context, choice).geometry_bytes


@given(LAYERS, CONTEXT, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]), st.sampled_from([1, 2, 3]))
def test_ranks_hold_at_least_the_whole(layers: list[Layer], context: int, tp: int, dp: int, count: int) -> None:
    result = sized(layers, context, parallel=Parallel(tp=tp, dp=dp), concurrency=count)
    assert sum(result.allocated_bytes_per_rank) >= result.geometry_bytes
    assert len(result.allocated_bytes_per_rank) == tp * dp


@given(
    st.lists(
        st.builds(FullAttention, num_kv_heads=st.sampled_from([8, 16]), head_dim=st.just(64)), min_size=8, max_size=9
    ),
    CONTEXT,
)
def test_ranks_hold_exactly_the_whole_where_heads_divide(kinds: list[LayerKind], context: int) -> None:
    layers: list[Layer] = [(kind,) for kind in kinds]
    for parallel in (Parallel(tp=8), Parallel(pp=4), Parallel(tp=4, pp=2)):
        result = sized(layers, context, parallel=parallel)
        assert sum(result.allocated_bytes_per_rank) == result.geometry_bytes


@given(LAYERS, CONTEXT, st.sampled_from(POLICIES))
def test_a_policy_never_keeps_more(layers: list[Layer], context: int, policy: str) -> None:
    pruned = sized(layers, context, choose(policy=policy))
    assert pruned.geometry_bytes <= sized(layers, context).geometry_bytes
    assert all(layer.kept_tokens <= layer.resident_tokens for layer in pruned.layers)


@given(LAYERS, CONTEXT, st.sampled_from(["h2o:keep=1", "snapkv:keep=1", "importance:keep=1", "window:4000"]))
def test_a_policy_that_keeps_everything_changes_nothing(layers: list[Layer], context: int, policy: str) -> None:
    assert sized(layers, context, choose(policy=policy)).geometry_bytes == sized(layers, context).geometry_bytes


@given(LAYERS, CONTEXT)
def test_fewer_bits_never_take_more(layers: list[Layer], context: int) -> None:
    sizes = [sized(layers, context, choose(name)).geometry_bytes for name in ("fp32", "bf16", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True)


@given(st.integers(1, 600), HEADS, CONTEXT)
def test_a_window_is_full_attention_until_it_is_full(window: int, heads: int, context: int) -> None:
    full = sized([(FullAttention(num_kv_heads=heads, head_dim=64),)], min(context, window)).geometry_bytes
    assert sized([(SlidingWindow(num_kv_heads=heads, head_dim=64, window=window),)], context).geometry_bytes == full


@given(LAYERS, CONTEXT, st.sampled_from([name for name in FORMATS if name != "kivi2"]))
def test_the_next_token_adds_what_is_said(layers: list[Layer], context: int, name: str) -> None:
    now, after = (sized(layers, tokens, choose(name)) for tokens in (context, context + 1))
    assert after.geometry_bytes - now.geometry_bytes == now.bytes_per_token


@given(st.integers(1, 50), st.integers(1, 4))
def test_kivi_grows_by_what_is_said_over_a_residual_window(windows: int, heads: int) -> None:
    layers: list[Layer] = [(FullAttention(num_kv_heads=heads, head_dim=128),)]
    now, after = (sized(layers, 128 * count, choose("kivi2")) for count in (windows, windows + 1))
    assert after.geometry_bytes - now.geometry_bytes == 128 * now.bytes_per_token


@settings(max_examples=30)
@given(LAYERS)
def test_fixed_bytes_do_not_depend_on_the_context(layers: list[Layer]) -> None:
    fixed = {sized(layers, context).fixed_bytes_per_sequence for context in (1, 100, 1999)}
    assert len(fixed) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_saved_bytes_agree_with_the_bits_of_a_row(name: str) -> None:
    layers: list[Layer] = [(FullAttention(num_kv_heads=8, head_dim=128),)] * 4
    choice = choose(name)
    part = FullAttention(num_kv_heads=1, head_dim=128).parts()[1]
    bits = Fraction(choice.kv_format.value.row_bytes(part)) * 8 / 128
    result = sized(layers, 128 * 10_000, choice)
    assert result.saving_ratio == pytest.approx(16 / float(bits), rel=2e-3)
