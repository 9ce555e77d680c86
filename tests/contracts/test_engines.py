"""What every engine must satisfy; a new file in ``kvplan/engines`` is held to it without an edit here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from types import ModuleType

import pytest

from kvplan.core.engine import Engine
from kvplan.core.errors import DoesNotFitError, KvplanError, UnsupportedError
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.registry import modules
from kvplan.core.request import SizeResult
from kvplan.engines import engine_names, engine_words, get_engine
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.settings import SettingWords, read_settings
from kvplan.planning.size import size_model
from kvplan.specs.catalogue import load_packaged

GIB = 1024**3
ENGINES = [name for name in engine_names() if name != "none"]
MODELS = (
    "llama-3.1-8b gemma-3-27b gpt-oss-20b deepseek-v3 deepseek-v3.2 qwen3-next-80b-a3b mixtral-8x7b falcon-mamba-7b "
    "jamba-v0.1 llama-4-scout nemotron-h-56b lfm2-8b-a1b"
).split()
MODULES = [module for module in modules("kvplan.engines") if module.ENGINE.name != "none"]


@cache
def loaded(name: str) -> Model:
    return load_packaged(name)


def sized(engine: Engine, name: str, context: int, words: RequestWords | None = None) -> SizeResult:
    """The size, or a skip where the engine has no such model."""
    model = loaded(name)
    try:
        return size_model(model, build_request(model, context, words or RequestWords(), engine), engine)
    except UnsupportedError as problem:
        pytest.skip(f"{engine.name}: {problem.message}")


CASES = [(engine, model) for engine in ENGINES for model in MODELS]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_module_is_named_after_its_engine_and_states_a_release(module: ModuleType) -> None:
    assert module.__name__.rsplit(".", 1)[1] == module.ENGINE.name
    assert module.ENGINE.version
    assert module.ENGINE.certainty in {"exact", "rule", "estimate"}
    assert len(type(module.ENGINE).__doc__) > 20


@pytest.mark.parametrize(
    "text",
    [
        *engine_names(),
        *("vllm@0.25", "vllm:flashinfer=false", "llamacpp:swa_full=true,ubatch=1k"),
        *("sglang:swa_full_tokens_ratio=20%", "mlx:kv_group_size=32,quantized_kv_start=0"),
    ],
)
def test_the_words_of_an_engine_ask_for_it_again(text: str) -> None:
    engine = get_engine(text)
    assert get_engine(engine_words(engine)) == engine


def test_no_two_engines_share_a_name() -> None:
    assert [name for name, count in Counter(engine_names()).items() if count > 1] == []


@pytest.mark.parametrize("name", ENGINES)
def test_most_of_the_models_are_sized(name: str) -> None:
    engine, done = get_engine(name), 0
    for model in MODELS:
        try:
            done += bool(size_model(loaded(model), build_request(loaded(model), 8192, RequestWords(), engine), engine))
        except UnsupportedError:
            continue
    assert done >= 4


@pytest.mark.parametrize(("name", "model"), CASES)
def test_layers_and_what_belongs_to_none_add_up(name: str, model: str) -> None:
    result = sized(get_engine(name), model, 5000, RequestWords(concurrency=3))
    assert result.allocated_bytes == sum(result.allocated_bytes_per_rank) > 0
    assert result.unassigned_bytes >= 0
    assert sum(layer.count for layer in result.layers) == sum(
        group.count for rank in result.allocation.stages for group in rank.groups
    )
    assert all(type(size) is int for size in (*result.allocated_bytes_per_rank, result.allocated_bytes_per_sequence))


@pytest.mark.parametrize(("name", "model"), CASES)
def test_more_tokens_or_sequences_never_take_less(name: str, model: str) -> None:
    engine = get_engine(name)
    by_context = [sized(engine, model, context).allocated_bytes for context in (1, 100, 1024, 1025, 4097, 8192)]
    assert by_context == sorted(by_context)
    by_sequence = [sized(engine, model, 3000, RequestWords(concurrency=n)).allocated_bytes for n in (1, 2, 3, 8)]
    assert by_sequence == sorted(by_sequence)
    assert by_sequence[0] < by_sequence[-1]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_the_reader_is_told_why_it_differs_from_geometry(name: str, model: str) -> None:
    result = sized(get_engine(name), model, 5001)
    assert result.allocation.explanation
    if result.allocated_bytes != result.geometry_bytes:
        assert result.allocation.reasons


@pytest.mark.parametrize("name", ENGINES)
def test_an_unknown_cache_dtype_is_refused_with_what_the_engine_has(name: str) -> None:
    engine, model = get_engine(name), loaded("llama-3.1-8b")
    with pytest.raises(UnsupportedError) as problem:
        build_request(model, 8192, RequestWords(kv_dtype="int13"), engine)
    assert problem.value.hint
    assert "auto" in problem.value.hint or "16" in problem.value.hint


@pytest.mark.parametrize("name", ENGINES)
def test_token_pruning_is_refused_with_what_the_engine_has_instead(name: str) -> None:
    request = build_request(loaded("llama-3.1-8b"), 8192, RequestWords(policy="h2o:keep=0.2"), get_engine(name))
    with pytest.raises(UnsupportedError) as problem:
        size_model(loaded("llama-3.1-8b"), request, get_engine(name))
    assert problem.value.hint


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-27b", "deepseek-v3", "qwen3-next-80b-a3b"])
def test_a_memory_holds_what_it_is_said_to_hold(name: str, model: str) -> None:
    """The capacity fits the memory; a memory without room for one request is refused, never answered with 0."""
    engine = get_engine(name)
    plain = sized(engine, model, 8192)
    need = max(plain.allocated_bytes_per_rank)
    words = RequestWords(settings=read_settings(SettingWords(kv_memory=str(20 * need))))
    held = sized(engine, model, 8192, words)
    assert held.allocation.capacity_tokens is not None
    assert held.allocation.max_concurrency is not None
    assert held.allocation.capacity_tokens >= 8192
    assert held.allocation.max_concurrency >= 1
    with pytest.raises((DoesNotFitError, UnsupportedError)) as problem:
        sized(engine, model, 8192, replace(words, settings=read_settings(SettingWords(kv_memory=str(need // 50)))))
    assert isinstance(problem.value, DoesNotFitError)


@pytest.mark.parametrize("name", ENGINES)
def test_replicas_and_ranks_are_listed_one_by_one(name: str) -> None:
    engine = get_engine(name)
    result = sized(engine, "llama-3.1-8b", 4096, RequestWords(concurrency=3, parallel=Parallel(dp=2)))
    assert len(result.allocated_bytes_per_rank) == 2
    assert result.allocated_bytes_per_rank[0] > result.allocated_bytes_per_rank[1]


@pytest.mark.parametrize("text", ["vlm", "vllm@9.9", "vllm:nonsense=1", "", "@0.32", "llamacpp:swa_full=perhaps"])
def test_a_wrong_engine_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(KvplanError) as problem:
        get_engine(text)
    assert problem.value.hint
