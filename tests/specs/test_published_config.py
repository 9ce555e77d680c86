"""Where the published config of a model is found, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.core.errors import FileError
from kvplan.specs.catalogue import load_packaged
from kvplan.specs.published_config import published_config
from kvplan.specs.reference import resolve_model

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 100,
    "dtype": "bfloat16",
}
OWN_SPEC = """
name: mine
source: {{ {source}, date: 2026-11-24 }}
hidden_size: 64
kinds:
  full: {{kind: full_attention, num_kv_heads: 2, head_dim: 16}}
layers:
  - {{pattern: [full], repeat: 3}}
num_layers: 3
"""


def own_spec(folder: Path, source: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(OWN_SPEC.format(source=source), encoding="utf-8")
    return path


def test_a_packaged_spec_has_the_config_at_its_address() -> None:
    found = published_config(load_packaged("llama-3.1-8b"))
    assert found.file is not None
    assert found.file.name == "meta-llama__Llama-3.1-8B.json"
    assert found.values is not None
    assert found.values["num_key_value_heads"] == 8


def test_an_alias_has_the_config_of_its_spec() -> None:
    by_alias = published_config(load_packaged("meta-llama/Meta-Llama-3.1-8B-Instruct"))
    assert by_alias == published_config(load_packaged("llama-3.1-8b"))


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_model_read_from_a_config_has_that_file(tmp_path: Path, as_folder: bool) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    found = published_config(resolve_model(str(tmp_path if as_folder else path)))
    assert found.file == path
    assert found.values == TINY


def test_a_config_that_is_gone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    model = resolve_model(str(path))
    path.unlink()
    with pytest.raises(FileError, match="cannot be read"):
        published_config(model)


def test_an_own_spec_of_a_packaged_address_is_held_against_the_packaged_config(tmp_path: Path) -> None:
    spec = own_spec(tmp_path, 'url: "https://huggingface.co/openai/gpt-oss-20b"')
    found = published_config(resolve_model(str(spec)))
    assert found.values is not None
    assert found.values["model_type"] == "gpt_oss"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('url: "https://example.org/mine"', "names no published config"),
        ("file: config.json", "names no published config"),  # a note of the spec's, not a path
        ('url: "https://huggingface.co/nobody/nothing"', "nobody/nothing is neither packaged"),
    ],
)
def test_without_a_config_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = published_config(resolve_model(str(own_spec(tmp_path, source))))
    assert found.values is None
    assert found.file is None
    assert reason in found.reason
