"""Suggestions: what is offered fits when it is asked for, what is refused does not, and nothing is offered in vain."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from kvplan.core.fit import FitResult
from kvplan.core.parallel import Parallel
from kvplan.engines import get_engine
from kvplan.planning.fit import fit_model
from kvplan.planning.fit_check import check_fit
from kvplan.planning.fit_request import FitWords, build_fit_request
from kvplan.planning.suggest import MOST_OFFERED, MOST_REFUSED, suggest
from kvplan.planning.suggestion import Suggestion
from kvplan.specs.reference import resolve_model

ENGINE = get_engine("vllm")

CASES = {
    "cache": ("llama-70b", "h200", Parallel(tp=4), "32k", 64),
    "nearly": ("llama-70b", "h200", Parallel(tp=8), "32k", 87),
    "latent": ("deepseek-v3", "h200", Parallel(tp=8), "32k", 64),
    "weights": ("llama-70b", "h100", Parallel(tp=1), "32k", 4),
    "windows": ("gpt-oss-120b", "h200", Parallel(), "32k", 64),
    "small": ("qwen3-8b", "l4", Parallel(), "32k", 2),
    "states": ("qwen3.5-27b", "h100", Parallel(), "128k", 16),
    "hopeless": ("deepseek-v3", "h100", Parallel(tp=8), "32k", 64),
}


def fit(model: str, gpu: str, parallel: Parallel, context: str, concurrency: int, **settings: str) -> FitResult:
    loaded = resolve_model(model)
    words = FitWords(model=model, gpu=gpu, ctx=context, concurrency=concurrency, tp=parallel.tp, **settings)
    return fit_model(loaded, build_fit_request(loaded, words, ENGINE), ENGINE)


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[FitResult, tuple[Suggestion, ...]]]:
    found = {name: fit(*case) for name, case in CASES.items()}
    return {name: (result, suggest(result, ENGINE)) for name, result in found.items()}


Answers = dict[str, tuple[FitResult, tuple[Suggestion, ...]]]


def starting(answers: Answers, name: str, option: str) -> list[Suggestion]:
    return [entry for entry in answers[name][1] if entry.option.startswith(option)]


@pytest.mark.parametrize("name", CASES)
def test_every_offered_change_fits_when_it_is_asked_for_anew(answers: Answers, name: str) -> None:
    result, suggestions = answers[name]
    assert not result.fits
    offered = [entry for entry in suggestions if entry.fits]
    assert offered, "something always helps here"
    for entry in offered:
        assert entry.result is not None
        again = fit_model(entry.result.model, entry.result.request, ENGINE)
        assert again.fits
        assert (entry.kv_bytes_needed, entry.available_bytes) == (again.kv_bytes_needed, again.available_bytes)
        assert again.kv_bytes_needed <= again.available_bytes


@pytest.mark.parametrize("name", CASES)
def test_the_option_means_the_request_that_was_evaluated(answers: Answers, name: str) -> None:
    model, gpu, parallel, context, concurrency = CASES[name]
    base = FitWords(model=model, gpu=gpu, ctx=context, concurrency=concurrency, tp=parallel.tp)
    for entry in answers[name][1]:
        if entry.result is None or entry.host_bytes:
            continue
        words: dict[str, object] = {}
        pieces = entry.option.split()
        for position, piece in enumerate(pieces):
            if piece == "--enable-expert-parallel":
                words["enable_expert_parallel"] = True
            elif piece.startswith("--"):
                value = pieces[position + 1]
                key = piece[2:].replace("-", "_")
                words[key] = int(value) if key in ("count", "concurrency", "tp", "pp", "dp", "dcp") else value
        built = build_fit_request(entry.result.model, replace(base, **words), ENGINE)
        assert built == entry.result.request, entry.option


@pytest.mark.parametrize("name", CASES)
def test_lists_are_short_and_offers_come_first(answers: Answers, name: str) -> None:
    fits = [entry.fits for entry in answers[name][1]]
    assert fits == sorted(fits, reverse=True)
    assert fits.count(True) <= MOST_OFFERED
    assert fits.count(False) <= MOST_REFUSED


def test_nothing_is_suggested_where_it_fits() -> None:
    assert suggest(fit("llama-70b", "h200", Parallel(tp=8), "32k", 64), ENGINE) == ()


@pytest.mark.parametrize("name", ["cache", "latent", "windows", "states"])
def test_one_request_more_than_suggested_does_not_fit(answers: Answers, name: str) -> None:
    (entry,) = starting(answers, name, "--concurrency")
    assert entry.result is not None
    request = entry.result.request
    most = request.size.concurrency
    assert most == answers[name][0].max_concurrency
    more = replace(request, size=replace(request.size, concurrency=most + 1))
    assert not check_fit(entry.result.model, more, ENGINE).fits


@pytest.mark.parametrize("name", ["cache", "latent", "windows", "small", "states"])
def test_a_thousand_tokens_more_than_suggested_do_not_fit(answers: Answers, name: str) -> None:
    (entry,) = starting(answers, name, "--ctx")
    assert entry.result is not None
    size = entry.result.request.size
    assert size.context_tokens % 1024 == 0
    assert size.concurrency == answers[name][0].request.size.concurrency
    longer = replace(size, context_tokens=size.context_tokens + 1024)
    assert not check_fit(entry.result.model, replace(entry.result.request, size=longer), ENGINE).fits


def test_contexts_below_a_thousand_tokens_are_whole_blocks() -> None:
    result = fit("llama-70b", "h100", Parallel(tp=2), "32k", 64)
    (entry,) = [entry for entry in suggest(result, ENGINE) if entry.option.startswith("--ctx")]
    assert entry.result is not None
    tokens = entry.result.request.size.context_tokens
    assert tokens < 1024
    assert tokens % 16 == 0
    size = replace(entry.result.request.size, context_tokens=tokens + 16)
    assert not check_fit(entry.result.model, replace(entry.result.request, size=size), ENGINE).fits


def test_a_larger_share_of_the_device_is_the_least_that_suffices(answers: Answers) -> None:
    (entry,) = starting(answers, "nearly", "--gpu-memory-utilization")
    assert entry.result is not None
    share = entry.result.request.memory_utilization
    assert share is not None
    assert Fraction(92, 100) < share <= Fraction(95, 100)
    less = replace(entry.result.request, memory_utilization=share - Fraction(1, 100))
    assert not check_fit(entry.result.model, less, ENGINE).fits


def test_latents_do_not_shrink_with_tensor_parallelism_and_the_reason_says_so(answers: Answers) -> None:
    (entry,) = starting(answers, "latent", "--count 16 --tp 16")
    assert not entry.fits
    assert "latents" in entry.words
    # The law behind the words: a rank's cache is the same at tp 4 and tp 8.
    four, eight = (fit("deepseek-v3", "b300", Parallel(tp=tp), "32k", 8) for tp in (4, 8))
    assert four.kv_bytes_needed == eight.kv_bytes_needed


def test_latents_are_offered_dp_attention_with_whole_experts(answers: Answers) -> None:
    (entry,) = [entry for entry in answers["latent"][1] if "--dp" in entry.option]
    assert entry.result is not None
    assert entry.result.request.expert_parallel
    assert entry.result.request.size.parallel.tp == 1


def test_changes_on_the_same_devices_come_before_more_devices(answers: Answers) -> None:
    result, suggestions = answers["latent"]
    placements = [
        entry for entry in suggestions if entry.result and entry.result.request.size.parallel != Parallel(tp=8)
    ]
    devices = [entry.result.request.num_devices for entry in placements if entry.result]
    assert devices == sorted(devices)
    assert devices[0] == result.request.num_devices


def test_eight_bits_are_offered_where_they_suffice_and_four_only_beyond(answers: Answers) -> None:
    assert [entry.fits for entry in starting(answers, "windows", "--kv-dtype")] == [True]
    eight, *_ = (entry for entry in answers["small"][1] if entry.option == "--kv-dtype fp8")
    assert not eight.fits
    assert "GiB" in eight.words
    (four,) = starting(answers, "small", "--kv-dtype int4")
    assert four.fits


def test_requests_and_tokens_are_no_help_where_weights_do_not_fit(answers: Answers) -> None:
    result, suggestions = answers["weights"]
    assert result.missing_bytes
    assert [entry.fits for entry in suggestions if entry.option == "--concurrency 1"] == [False]
    assert not starting(answers, "weights", "--ctx")
    one = replace(result.request, size=replace(result.request.size, concurrency=1, context_tokens=16))
    assert not check_fit(result.model, one, ENGINE).fits


def test_smaller_weights_are_offered_only_where_weights_are_most_of_it(answers: Answers) -> None:
    assert [entry.fits for entry in starting(answers, "small", "--weights")] == [True]
    assert not starting(answers, "windows", "--weights")


def test_exact_bytes_of_files_do_not_count_for_another_weight_format() -> None:
    result = fit(*CASES["small"])
    weights = replace(result.model.weights, exact_bytes=result.budgets[0].weights.size_bytes)
    known = fit_model(replace(result.model, weights=weights), result.request, ENGINE)
    (entry,) = [entry for entry in suggest(known, ENGINE) if entry.option == "--weights fp8"]
    assert entry.result is not None
    assert entry.result.budgets[0].weights.size_bytes < known.budgets[0].weights.size_bytes * 6 // 10


def test_host_memory_holds_the_caches_that_the_devices_do_not(answers: Answers) -> None:
    result, suggestions = answers["windows"]
    (entry,) = [entry for entry in suggestions if entry.host_bytes]
    waiting = 64 - result.max_concurrency
    assert entry.host_bytes == waiting * result.needed.stages[0].sequence_bytes
    assert entry.option == f"--kv-offloading-size {-(-entry.host_bytes // 2**30)}"


def test_a_longest_request_that_keeps_the_engine_from_starting_is_shortened() -> None:
    result = fit("llama-8b", "l4", Parallel(), "8k", 1, max_model_len="128k")
    assert not result.starts
    first = suggest(result, ENGINE)[0]
    assert first.option.startswith("--max-model-len")
    assert first.fits


def test_a_batch_that_leaves_no_room_is_made_smaller() -> None:
    usual = fit("llama-8b", "h100", Parallel(), "8k", 1)
    result = fit("llama-8b", "h100", Parallel(), "8k", usual.max_concurrency, max_num_batched_tokens="64k")
    assert not result.fits
    (entry,) = [entry for entry in suggest(result, ENGINE) if entry.option.startswith("--max-num-batched-tokens")]
    assert entry.result is not None
    batch = entry.result.request.size.settings.max_num_batched_tokens
    assert batch is not None
    settings = replace(entry.result.request.size.settings, max_num_batched_tokens=batch * 2)
    twice = replace(entry.result.request, size=replace(entry.result.request.size, settings=settings))
    assert not check_fit(entry.result.model, twice, ENGINE).fits


@pytest.mark.parametrize("name", CASES)
def test_the_quick_check_agrees_with_the_full_answer(answers: Answers, name: str) -> None:
    result = answers[name][0]
    check = check_fit(result.model, result.request, ENGINE)
    assert check.fits == result.fits
    assert check.available_bytes == result.available_bytes
    assert check.missing_bytes == result.missing_bytes
    assert check.problem


@pytest.mark.parametrize("name", CASES)
def test_a_refused_number_of_ranks_does_not_fit(answers: Answers, name: str) -> None:
    result, suggestions = answers[name]
    for entry in suggestions:
        if entry.fits or "--tp" not in entry.option:
            continue
        tp = int(entry.option.split("--tp ")[1].split()[0])
        size = replace(result.request.size, parallel=replace(result.request.size.parallel, tp=tp))
        assert not check_fit(result.model, replace(result.request, size=size), ENGINE).fits


def test_every_suggestion_has_a_line_and_json_fields(answers: Answers) -> None:
    for _, suggestions in answers.values():
        for entry in suggestions:
            assert entry.option in entry.line
            assert entry.fields()["fits"] == entry.fits
            assert entry.words
