"""What every engine's memory budget must satisfy; a new engine is held to it without an edit here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest

from kvplan.core.budget import BudgetLine, RankBudget
from kvplan.core.errors import KvplanError, UnsupportedError
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.model import Model
from kvplan.core.units import GIB
from kvplan.engines import engine_names, get_engine
from kvplan.planning.fit import build_budget_request, fit_model, with_memory
from kvplan.planning.fit_request import FitWords, build_fit_request
from kvplan.specs.accelerator import custom_accelerator
from kvplan.specs.catalogue import load_packaged

ENGINES = [name for name in engine_names() if name != "none"]
SPLIT_BY_LAYERS = ("llamacpp", "ollama")
WHOLE = ("mlx",)
WITHOUT_FRACTION = ("llamacpp", "ollama", "transformers", "mlx", "exllamav3")
LOADS_GGUF = ("llamacpp", "ollama")
DEVICES = {"mlx": ("m3-ultra", "m4-max"), "llamacpp": ("h200", "m3-ultra"), "ollama": ("h200", "m3-ultra")}
LINES = ("weights", "activation", "cuda_graph", "non_torch", "kv_cache")


class Case(NamedTuple):
    """One start: a model, the GPUs that share it, and the devices where it is not the two of the engine."""

    model: str
    ranks: int = 1
    devices: tuple[str, ...] = ()


CASES = (
    Case("llama-3.1-8b"),
    Case("llama-3.1-70b", 4),
    Case("gpt-oss-20b"),
    Case("deepseek-v3", 8, ("h200", "b200")),
    Case("gemma-3-27b"),
    Case("qwen3-next-80b-a3b", 4),
    Case("qwen2.5-72b", 4),
)
"""The last one's spec states no widths."""

STARTS = [
    (engine, case, device)
    for engine in ENGINES
    for case in CASES
    for device in (case.devices if engine not in WHOLE else ()) or DEVICES.get(engine, ("h200", "h100"))
]
IDS = [f"{engine}-{case.model}-{device}" for engine, case, device in STARTS]


@cache
def loaded(name: str) -> Model:
    return load_packaged(name)


def words_of(engine: str, case: Case, device: str) -> FitWords:
    """The start in words: tensor parallel where the engine has it, whole layers a device where not."""
    count = 1 if engine in WHOLE else case.ranks
    sizes = {"pp": count, "tp": 1} if engine in SPLIT_BY_LAYERS else {"tp": count, "pp": 1}
    stated = {"weights": "q8_0"} if engine in LOADS_GGUF else {}
    return FitWords(model=case.model, gpu=device, engine=engine, ctx="8k", dp=1, **sizes, **stated)


def request_of(engine: str, case: Case, device: str) -> FitRequest:
    return build_fit_request(loaded(case.model), words_of(engine, case, device), get_engine(engine))


@cache
def fitted(engine: str, case: Case, device: str) -> FitResult:
    """The fit, or a skip where the engine has no such model or no such split."""
    try:
        return fit_model(loaded(case.model), request_of(engine, case, device), get_engine(engine))
    except UnsupportedError as problem:
        pytest.skip(f"{engine}: {problem.message}")


def left_of(engine: str, case: Case, device: str, memory_bytes: int) -> int:
    """What is left for the cache on the fullest rank of devices like this one with another memory; or less than 0."""
    request, chosen = request_of(engine, case, device), get_engine(engine)
    accelerator = custom_accelerator(memory_bytes, request.accelerator)
    size = replace(request.size, settings=replace(request.size.settings, accelerator=accelerator))
    asked = build_budget_request(loaded(case.model), replace(request, accelerator=accelerator, size=size), chosen)
    return min(budget.kv_cache.size_bytes - budget.missing_bytes for budget in chosen.budget(asked))


def lines_of(budget: RankBudget) -> list[BudgetLine]:
    return [getattr(budget, name) for name in LINES]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_says_where_the_memory_of_a_rank_goes(name: str) -> None:
    case = CASES[0]
    assert fitted(name, case, DEVICES.get(name, ("h200",))[0]).budgets


@pytest.mark.parametrize(("engine", "case", "device"), STARTS, ids=IDS)
def test_the_lines_add_up_to_what_the_engine_takes(engine: str, case: Case, device: str) -> None:
    result = fitted(engine, case, device)
    assert len(result.budgets) == result.request.size.parallel.pp
    for budget in result.budgets:
        assert sum(line.size_bytes for line in lines_of(budget)) - budget.missing_bytes == budget.requested_bytes
        assert budget.requested_bytes + budget.unused_bytes == budget.memory_bytes
        assert budget.unused_bytes >= 0


@pytest.mark.parametrize(("engine", "case", "device"), STARTS, ids=IDS)
def test_lines_are_whole_bytes_that_say_how_they_are_known(engine: str, case: Case, device: str) -> None:
    for budget in fitted(engine, case, device).budgets:
        for line in lines_of(budget):
            assert type(line.size_bytes) is type(line.error_bytes) is int
            assert line.size_bytes >= 0
            assert line.error_bytes >= 0
            assert line.certainty in ("exact", "rule", "estimate")
            assert line.certainty != "exact" or not line.error_bytes
        if any(line.certainty == "estimate" for line in lines_of(budget)):
            assert budget.kv_cache.error_bytes > 0


@pytest.mark.parametrize(("engine", "case", "device"), STARTS, ids=IDS)
def test_the_reader_is_told_how_each_line_came_about(engine: str, case: Case, device: str) -> None:
    for budget in fitted(engine, case, device).budgets:
        text = "\n".join(budget.explanation)
        assert "weights, " in text
        assert len(budget.explanation) >= 3
        assert all(line.strip() for line in budget.explanation)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_without_widths_has_a_wide_estimate(engine: str) -> None:
    case = CASES[-1]
    assert loaded(case.model).architecture.widths is None
    for budget in fitted(engine, case, DEVICES.get(engine, ("h200",))[0]).budgets:
        if engine in ("sglang", "lmdeploy"):  # what they set aside does not depend on feed-forward widths
            assert budget.activation.certainty == "rule"
        else:
            assert budget.activation.certainty == "estimate"
            assert budget.activation.error_bytes >= budget.activation.size_bytes
            assert "states no widths" in "\n".join(budget.explanation)


@pytest.mark.parametrize(("engine", "case"), [(name, case) for name in ENGINES for case in CASES[:3]])
def test_more_device_memory_never_leaves_less_for_the_cache(engine: str, case: Case) -> None:
    """Up to 59 GiB: from 60 SGLang sets 10 GiB aside, and from 70 vLLM runs larger batches."""
    device = DEVICES.get(engine, ("h200",))[0]
    left = [left_of(engine, case, device, gib * GIB) for gib in (16, 24, 36, 48, 59)]
    assert left == sorted(left)
    assert left[0] < left[-1]


@pytest.mark.parametrize(("engine", "case", "device"), STARTS, ids=IDS)
def test_the_capacity_is_that_of_the_bytes_that_are_left(engine: str, case: Case, device: str) -> None:
    result = fitted(engine, case, device)
    assert result.available_bytes == min(budget.kv_cache.size_bytes for budget in result.budgets)
    assert result.missing_bytes == max(budget.missing_bytes for budget in result.budgets)
    if result.capacity is None:
        assert result.missing_bytes or result.refusal
        assert not result.fits
        return
    chosen = get_engine(engine)
    asked = build_budget_request(loaded(case.model), result.request, chosen).allocation
    again = chosen.allocate(with_memory(asked, result.available_bytes))
    assert (again.capacity_tokens, again.num_blocks) == (result.capacity.capacity_tokens, result.capacity.num_blocks)
    assert result.kv_bytes_needed <= result.available_bytes or not result.fits


@pytest.mark.parametrize(("engine", "case", "device"), STARTS, ids=IDS)
def test_settling_twice_changes_nothing(engine: str, case: Case, device: str) -> None:
    result, chosen = fitted(engine, case, device), get_engine(engine)
    once = build_budget_request(loaded(case.model), result.request, chosen)
    assert chosen.settle(once) == once


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_whose_weights_are_not_known_is_refused(name: str) -> None:
    known = loaded("llama-3.1-8b")
    unknown = replace(known, architecture=replace(known.architecture, parameters=None))
    engine, case = get_engine(name), CASES[0]
    words = words_of(name, case, DEVICES.get(name, ("h200",))[0])
    with pytest.raises(KvplanError, match="parameter counts"):
        fit_model(unknown, build_fit_request(unknown, words, engine), engine)


@pytest.mark.parametrize("name", ENGINES)
def test_a_fraction_of_the_memory_is_followed_or_refused(name: str) -> None:
    """Engines without a fraction refuse it; a smaller one leaves less for the cache of the others."""
    model, engine, case = loaded("llama-3.1-8b"), get_engine(name), CASES[0]
    words = words_of(name, case, DEVICES.get(name, ("h200",))[0])
    left = []
    for fraction in ("0.4", "0.6"):
        request = build_fit_request(model, replace(words, gpu_memory_utilization=fraction), engine)
        if name in WITHOUT_FRACTION:
            with pytest.raises(UnsupportedError, match="fraction"):
                fit_model(model, request, engine)
        else:
            left.append(fit_model(model, request, engine).available_bytes)
    assert name in WITHOUT_FRACTION or 0 < left[0] < left[1]
