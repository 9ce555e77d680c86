"""Where a checkpoint's cache format is read, and how it travels: config, ``hf_quant_config.json``, spec, request."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvplan import size
from kvplan.core.model import Model
from kvplan.planning.request import model_facts
from kvplan.specs.catalogue import find_spec, spec_files
from kvplan.specs.config_json import read_config
from kvplan.specs.reference import read_file, read_folder, resolve_model
from kvplan.specs.schema import check_spec
from kvplan.specs.spec_writer import write_spec
from kvplan.specs.spec_yaml import build_model, contradictions
from kvplan.specs.yaml_file import load_yaml

LLAMA: dict[str, Any] = {
    "model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": 2, "hidden_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "intermediate_size": 128,
}  # fmt: skip
FP8 = {"num_bits": 8, "type": "float", "dynamic": False}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": FP8}
LLM_COMPRESSOR = {"quant_method": "compressed-tensors", "kv_cache_scheme": {**FP8, "strategy": "tensor"}}
LEGACY = {
    "producer": {"name": "modelopt", "version": "0.29.0"},
    "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": []},
}
"""``hf_quant_config.json`` as ModelOpt up to 0.29 wrote it."""


def scheme(model: Model) -> tuple[str | None, str | None]:
    return model.kv_scheme, model.kv_scheme_method


def model_of(**changes: Any) -> Model:
    return read_config({**LLAMA, **changes}, "config.json", "toy")


def write_folder(folder: Path, legacy: object, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}), encoding="utf-8")
    text = legacy if isinstance(legacy, str) else json.dumps(legacy)
    (folder / "hf_quant_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_config_states_the_format_of_its_cache(key: str) -> None:
    assert scheme(model_of(**{key: MODELOPT})) == ("fp8_e4m3", "modelopt")
    assert scheme(model_of(**{key: LLM_COMPRESSOR})) == ("fp8_e4m3", "compressed-tensors")
    assert scheme(model_of()) == (None, None)


def test_a_scheme_under_text_config_is_read() -> None:
    values = {"model_type": "llava", "text_config": {**LLAMA, "quantization_config": LLM_COMPRESSOR}}
    assert scheme(read_config(values, "config.json", "toy")) == ("fp8_e4m3", "compressed-tensors")


def test_8_bit_weights_alone_do_not_quantize_the_cache() -> None:
    # configiq #112: an NVFP4 or FP8 checkpoint whose cache stays in bf16
    assert scheme(model_of(quantization_config={"quant_method": "fp8"})) == (None, None)
    assert scheme(resolve_model("qwen3.6-35b-a3b-nvfp4")) == (None, None)


@pytest.mark.parametrize("stated", [7, "FP3", [FP8], {"num_bits": "8"}, {"type": ["float"]}])
def test_a_malformed_scheme_is_noted(stated: object) -> None:
    model = model_of(quantization_config={**MODELOPT, "kv_cache_scheme": stated})
    assert scheme(model) == (None, None)
    assert any("kv_cache_scheme" in note and "is not known" in note for note in model.notes)


# -- hf_quant_config.json ---------------------------------------------------------------------------------------


def test_the_file_beside_a_config_states_both_formats(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, LEGACY)
    for model in (read_folder(folder), read_file(folder / "config.json")):
        assert scheme(model) == ("fp8_e4m3", "modelopt")
        assert model.weights.weight_format == "nvfp4"
        assert model.notes == ()


def test_a_config_with_a_quantization_of_its_own_goes_before_the_file(tmp_path: Path) -> None:
    # vLLM 0.32, transformers_utils/config.py: the file is read only where the config has no quantization_config
    folder = write_folder(tmp_path, LEGACY, quantization_config={"quant_method": "fp8"})
    assert scheme(read_folder(folder)) == (None, None)
    assert read_folder(folder).weights.weight_format == "fp8"


def test_the_file_belongs_to_a_config_of_the_usual_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, LEGACY)
    (folder / "other.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    assert scheme(read_file(folder / "other.json")) == (None, None)


@pytest.mark.parametrize("legacy", ["{", "[]", "null", '"FP8"'])
def test_a_malformed_file_is_noted(legacy: str, tmp_path: Path) -> None:
    model = read_folder(write_folder(tmp_path, legacy))
    assert scheme(model) == (None, None)
    assert model.notes == (
        "the weights' quantization (hf_quant_config.json is malformed) is not known: they are counted in 16 bits"
        " (--weights)",
    )


@pytest.mark.parametrize("quantization", [None, 5, "FP8", [], {"kv_cache_quant_algo": 5}, {"kv_cache_quant_algo": {}}])
def test_a_file_with_the_wrong_types_never_crashes(quantization: object, tmp_path: Path) -> None:
    assert scheme(read_folder(write_folder(tmp_path, {"quantization": quantization}))) == (None, None)


def test_the_file_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = write_folder(tmp_path, LEGACY), []
    hub: Any = SimpleNamespace(
        HfApi=lambda: SimpleNamespace(
            model_info=lambda *_, **__: SimpleNamespace(
                sha="abc", siblings=[SimpleNamespace(rfilename=path.name) for path in folder.iterdir()]
            ),
            get_safetensors_metadata=lambda _: 1 / 0,
        ),
        hf_hub_download=lambda _, name, **__: asked.append(name) or str(folder / name),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert scheme(resolve_model("org/new")) == ("fp8_e4m3", "modelopt")
    assert asked == ["config.json", "hf_quant_config.json"]


# -- specs ------------------------------------------------------------------------------------------------------


def test_an_imported_config_keeps_its_scheme() -> None:
    model = model_of(quantization_config=LLM_COMPRESSOR)
    text = write_spec(model)
    assert "\nkv_scheme: fp8_e4m3\nkv_scheme_method: compressed-tensors\n" in text
    values = load_yaml(text, "spec")
    assert check_spec(values) + contradictions(values) == []
    assert build_model(values, "spec") == model
    assert "kv_scheme" not in write_spec(model_of())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kv_scheme": "fp9"}, "kv_scheme: must be 'fp8_e4m3' or 'nvfp4'"),
        ({"kv_scheme": 8}, "kv_scheme: must be 'fp8_e4m3' or 'nvfp4'"),
        ({"kv_scheme": "nvfp4", "kv_scheme_method": "gguf"}, "kv_scheme_method: must be 'modelopt' or"),
        ({"kv_scheme_method": "modelopt"}, "kv_scheme: is missing"),
    ],
)
def test_a_mistake_in_a_spec_is_named(changes: dict[str, Any], problem: str) -> None:
    values = {"name": "toy", "num_layers": 2, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, **changes}
    (found,) = check_spec(values) + contradictions(values)
    assert found.startswith(problem)


def test_two_packaged_checkpoints_ask_for_an_8_bit_cache() -> None:
    # quantization_config.kv_cache_scheme of their published configs: 8 bits, float, not dynamic
    asking = {path.stem: scheme(resolve_model(path.stem)) for path in spec_files()}
    assert {name: found for name, found in asking.items() if found != (None, None)} == {
        "gemma-4-31b-nvfp4": ("fp8_e4m3", "modelopt"),
        "qwen3.6-27b-nvfp4": ("fp8_e4m3", "modelopt"),
    }
    assert find_spec("nvidia/Gemma-4-31B-IT-NVFP4") == find_spec("gemma-4-31b-nvfp4")


# -- requests ---------------------------------------------------------------------------------------------------


def test_engines_are_told_the_scheme() -> None:
    facts = model_facts(resolve_model("gemma-4-31b-nvfp4"))
    assert (facts.kv_scheme, facts.kv_scheme_method) == ("fp8_e4m3", "modelopt")


def test_plain_geometry_stays_in_16_bits_and_says_that_engines_do_not() -> None:
    note = "the checkpoint asks for a cache in fp8_e4m3, which most engines follow (--kv-dtype fp8_e4m3)"
    plain = size("gemma-4-31b-nvfp4", "8k")
    assert plain.geometry_bytes == size("gemma-4-31b", "8k").geometry_bytes
    assert note in plain.warnings
    assert note not in size("gemma-4-31b-nvfp4", "8k", kv_dtype="fp8_e4m3").warnings
    assert note not in size("gemma-4-31b", "8k").warnings
