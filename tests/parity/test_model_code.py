"""The model code check over every packaged spec with a published config, but for those that transformers cannot build.

Each model runs its own cache and a compressed one on the CPU. One model of each family comes first, and after the time
that is set none begins: ``KVPLAN_CODE_SECONDS=1800`` is enough for all.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
if transformers.__version__ != "5.23.0":
    pytest.skip("kvplan has the rules of transformers 5.23.0", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of hqq, which transformers imports where it is installed
    from kvplan.runtime.verify.model_code import CodeOptions, verify_model_code

from kvplan.specs.catalogue import load_found, spec_files  # noqa: E402
from kvplan.specs.published_config import published_config  # noqa: E402

pytestmark = pytest.mark.parity

OPTIONS = CodeOptions(compressions=(("int8", "none"),), batches=(2,), seconds=60)
MOST_SECONDS = float(os.environ.get("KVPLAN_CODE_SECONDS", "240"))
MODELS = {path.stem: load_found(path) for path in spec_files()}
FIRST = {model.family: name for name, model in reversed(MODELS.items())}
PUBLISHED = [name for name, model in MODELS.items() if published_config(model).values is not None]
SPECS = sorted(PUBLISHED, key=lambda name: FIRST[MODELS[name].family] != name)

NO_CLASS: Mapping[str, str] = {
    "chatglm3-6b": "chatglm",
    "ernie-4.5-vl-28b-a3b": "ernie4_5_moe_vl",
    "ernie-4.5-vl-424b-a47b": "ernie4_5_moe_vl",
    "glm-4-9b": "chatglm",
    "internlm-7b": "internlm",
    "internlm2-7b": "internlm2",
    "jet-nemotron-2b": "jet_nemotron",
    "jet-nemotron-4b": "jet_nemotron",
    "kimi-k3": "kimi_k3",
    "mamba2attn-2.7b": "None",
    "minimax-m1": "minimax_m1",
    "minimax-m3": "minimax_m3",
    "nemotron-super-49b": "nemotron-nas",
    "openelm-3b": "openelm",
    "orion-14b": "orion",
    "phi-2": "phi-msft",
    "qwen-1.8b": "qwen",
    "rwkv-5-3b": "rwkv5",
}
"""Specs -> model type of their published config, of which transformers 5.23.0 has no class: repositories' own code."""

NO_CODE: Mapping[str, str] = {
    **{name: f"does not know the model type {model_type!r}" for name, model_type in NO_CLASS.items()},
    "gemma-4-31b-assistant": "layer types producing a cache is different",  # it reads another model's cache
}
"""Specs that are skipped -> what the reason says."""


@pytest.fixture(scope="module")
def started() -> float:
    return time.monotonic()


@pytest.mark.parametrize("name", SPECS)
def test_the_code_of_a_packaged_spec_holds_what_is_predicted(name: str, started: float) -> None:
    if time.monotonic() - started > MOST_SECONDS:
        pytest.skip(f"{MOST_SECONDS} s are over")
    found = verify_model_code(MODELS[name], torch.device("cpu"), OPTIONS)
    if name in NO_CODE:
        assert found.checks == ()
        assert NO_CODE[name] in found.skipped[0]
        return
    assert [entry for entry in found.checks if not entry.passed] == []
    assert found.passed, found.skipped
