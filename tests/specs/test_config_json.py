"""What a config.json says about dtypes and quantization, and what is said where it is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.errors import FileError, MissingKeyError, SpecError
from kvplan.core.model import Model
from kvplan.specs.config_json import load_config, read_config

LLAMA = Path(__file__).parent.parent / "assets" / "configs" / "meta-llama__Llama-3.1-8B.json"


def llama(**changes: Any) -> Model:
    values = {**json.loads(LLAMA.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in values.items() if value is not ...}
    return read_config(kept, "config.json", "model")


@pytest.mark.parametrize(
    ("stated", "dtype", "noted"),
    [
        ("bfloat16", "bf16", False),
        ("float16", "fp16", False),
        ("torch.float16", "fp16", False),
        ("float32", "bf16", True),
    ],
)
def test_the_compute_dtype_has_16_bits(stated: str, dtype: str, noted: bool) -> None:
    model = llama(torch_dtype=stated)
    assert model.dtype == dtype
    assert any("float32" in note for note in model.notes) == noted


def test_a_dtype_that_is_not_stated_is_an_assumption() -> None:
    model = llama(torch_dtype=...)
    assert model.dtype == "bf16"
    assert any("states no dtype" in note for note in model.notes)


def test_a_quantization_that_is_not_known_is_said_so() -> None:
    model = llama(quantization_config={"quant_method": "exl9", "bits": 3})
    assert model.weights.weight_format is None
    assert any("(exl9) is not known" in note for note in model.notes)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"])
def test_a_trimmed_config_names_the_key_it_lacks(key: str) -> None:
    with pytest.raises(MissingKeyError, match=f"lacks the key '{key}'"):
        llama(**{key: ...})


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 0), ("num_hidden_layers", "many"), ("num_hidden_layers", 10**9), ("hidden_size", -4),
     ("num_key_value_heads", 2.5), ("head_dim", [128])],
)  # fmt: skip
def test_an_impossible_value_names_its_key(key: str, value: Any) -> None:
    with pytest.raises(SpecError, match=key):
        llama(**{key: value})


@pytest.mark.parametrize("text", ["", "[1]", "{", "nul", '"config"', "[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError):
        load_config(path)


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        (["LlamaForCausalLM"], "LlamaForCausalLM"),
        (["LlamaForCausalLM", "LlamaModel"], "LlamaForCausalLM"),
        ([], None),
        (None, None),
        (..., None),
        ("LlamaForCausalLM", None),
    ],
)
def test_the_class_is_the_first_that_a_list_names(stated: Any, named: str | None) -> None:
    assert llama(architectures=stated).architecture_class == named


def test_a_nested_text_model_has_the_class_of_its_wrapper() -> None:
    # engines choose by it, and vLLM reads the wrapper's class with the text model's sizes
    path = LLAMA.with_name("Qwen__Qwen3.5-27B.json")
    values = json.loads(path.read_text(encoding="utf-8"))
    values["text_config"] |= {"architectures": ["Qwen3_5ForCausalLM"]}
    assert read_config(values, path.name, "model").architecture_class == "Qwen3_5ForConditionalGeneration"
