"""The hardware search: what it finds fits, nothing smaller does, and every rejection has a reason."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineSettings
from kvplan.core.errors import KvplanError, UnsupportedError
from kvplan.core.fit import FitRequest
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.units import GIB
from kvplan.core.weights import get_weight_format
from kvplan.engines import get_engine
from kvplan.planning.accelerators import packaged_accelerators
from kvplan.planning.fit import fit_model
from kvplan.planning.fit_check import check_fit
from kvplan.planning.hardware_search import SearchWords, search_hardware
from kvplan.planning.replication import spreads
from kvplan.planning.request import RequestWords, build_request
from kvplan.specs.accelerator import load_accelerator
from kvplan.specs.reference import resolve_model

ENGINE = get_engine("vllm")
SMALL_LIST = ("t4", "l4", "l40s", "a100-80gb-sxm", "h100-sxm", "h200-sxm", "b300", "mi300x", "m4-max")
MODELS = ("llama-70b", "deepseek-v3", "gpt-oss-120b", "qwen3-8b")


def asked(model: Model, context: str = "32k", concurrency: int = 64, **limits: int) -> SearchWords:
    return SearchWords(
        context=context,
        words=RequestWords(concurrency=concurrency, settings=EngineSettings(**limits)),  # type: ignore[arg-type]
        weight_format=get_weight_format(model.weights.weight_format or model.dtype),
    )


def devices() -> list[Accelerator]:
    return [load_accelerator(name) for name in SMALL_LIST]


def brute_force(model: Model, words: SearchWords, accelerator: Accelerator, count: int) -> bool:
    """Whether any tp x pp x dp x dcp of ``count`` devices fits, with and without expert parallelism."""
    powers = [size for size in (1, 2, 4, 8) if size <= count]
    for tp, pp, dp, dcp, experts in product(powers, powers, powers, powers, (False, True)):
        if tp * pp * dp != count or tp % dcp:
            continue
        on_device = replace(words.words.settings, accelerator=accelerator)
        try:
            size = build_request(model, words.context, replace(words.words, settings=on_device), ENGINE)
            request = FitRequest(
                size=replace(size, parallel=Parallel(tp=tp, pp=pp, dp=dp, dcp=dcp)),
                accelerator=accelerator,
                weight_format=words.weight_format,
                expert_parallel=experts,
            )
            if check_fit(model, request, ENGINE).fits:
                return True
        except KvplanError:
            continue
    return False


@pytest.mark.parametrize("name", MODELS)
def test_everything_found_fits_by_the_full_answer_too(name: str) -> None:
    model = resolve_model(name)
    result = search_hardware(model, asked(model), ENGINE, devices())
    assert result.found
    for found in result.found:
        full = fit_model(model, found.check.request, ENGINE)
        assert full.fits
        assert found.check.request.num_devices == found.count
        assert full.kv_bytes_needed == found.check.needed_bytes
        assert full.capacity == found.capacity
        assert found.spare_bytes == full.available_bytes - full.kv_bytes_needed >= 0


@pytest.mark.parametrize("name", ["llama-70b", "gpt-oss-120b", "qwen3-8b"])
def test_no_smaller_count_of_any_device_fits_by_brute_force(name: str) -> None:
    model = resolve_model(name)
    words = asked(model)
    nvidia = [device for device in devices() if device.vendor == "nvidia"]
    result = search_hardware(model, words, ENGINE, nvidia)
    fewest = {found.accelerator.name: found.count for found in result.found}
    for device in nvidia:
        for count in (1, 2, 4):  # all that lie below a count of a node
            if count < fewest.get(device.name, 8):
                assert not brute_force(model, words, device, count), f"{count} {device.name}"
    assert result.found[0].count == min(fewest.values())


def test_found_is_ranked_by_devices_then_memory_then_bandwidth() -> None:
    model = resolve_model("gpt-oss-120b")
    found = search_hardware(model, asked(model), ENGINE, packaged_accelerators()).found
    keys = [(row.count, row.total_memory_bytes, row.accelerator.bandwidth_bytes_per_second) for row in found]
    assert keys == sorted(keys)
    assert len({row.accelerator.name for row in found}) == len(found)


def test_every_device_is_found_or_rejected_with_a_reason() -> None:
    model = resolve_model("llama-70b")
    result = search_hardware(model, asked(model), ENGINE, packaged_accelerators())
    found = {row.accelerator.name for row in result.found}
    rejected = {row.accelerator.name for row in result.rejected}
    assert found | rejected == {device.name for device in packaged_accelerators()}
    assert all(row.reason for row in result.rejected)
    fewest = {row.accelerator.name: row.count for row in result.found}
    assert all(row.count <= fewest.get(row.accelerator.name, 8) for row in result.rejected)


def test_devices_that_the_engine_does_not_run_on_say_so() -> None:
    model = resolve_model("qwen3-8b")
    names = ("v100-32gb", "mi300x", "m4-max", "tpu-v6e", "rubin")
    result = search_hardware(model, asked(model, "4k", 1), ENGINE, [load_accelerator(name) for name in names])
    assert not result.found
    reasons = {row.accelerator.name: row.reason for row in result.rejected}
    assert "7.5" in reasons["v100-32gb"]
    assert all("NVIDIA" in reasons[name] for name in ("mi300x", "m4-max", "tpu-v6e"))
    assert "compute capability" in reasons["rubin"]


@pytest.mark.parametrize("name", ["llama-70b", "deepseek-v3"])
@settings(max_examples=20)
@given(more=st.integers(min_value=0, max_value=200 * GIB))
def test_more_memory_never_loses_a_device(name: str, more: int) -> None:
    """At equal batches: vLLM gives larger devices larger ones."""
    model = resolve_model(name)
    words = asked(model, max_num_batched_tokens=8192, max_num_seqs=1024)
    device = load_accelerator("h200-sxm")
    larger = replace(device, memory_bytes=device.memory_bytes + more)
    before, after = (search_hardware(model, words, ENGINE, [each]).found for each in (device, larger))
    assert before
    assert after
    assert after[0].count <= before[0].count


def test_fewer_requests_never_need_more_devices() -> None:
    model = resolve_model("deepseek-v3")
    counts = []
    for concurrency in (1, 8, 64):
        result = search_hardware(model, asked(model, concurrency=concurrency), ENGINE, [load_accelerator("b300")])
        counts.append(result.found[0].count)
    assert counts == sorted(counts)


def test_latents_are_placed_on_replicas_where_ranks_would_copy_them() -> None:
    model = resolve_model("deepseek-v3")
    ranks, replicas, shared, stages = spreads(model.architecture, 8)
    assert ranks.parallel == Parallel(tp=8)
    assert replicas.parallel == Parallel(dp=8)
    assert replicas.expert_parallel
    assert shared.parallel == Parallel(tp=8, dcp=8)
    assert stages.parallel == Parallel(pp=8)


def test_eight_kv_heads_on_eight_ranks_are_no_copies() -> None:
    assert [spread.parallel for spread in spreads(resolve_model("llama-70b").architecture, 8)] == [Parallel(tp=8)]


def test_stages_take_the_devices_over_which_heads_do_not_divide() -> None:
    model = resolve_model("llama-70b")
    six = replace(model.architecture, num_heads=6)
    assert spreads(six, 4)[0].parallel == Parallel(tp=2, pp=2)


def test_engines_without_a_budget_are_refused() -> None:
    model = resolve_model("qwen3-8b")
    with pytest.raises(UnsupportedError, match="besides weights and cache"):
        search_hardware(model, asked(model), get_engine("none"), devices())
