"""A packaged spec tells engines what the published config tells them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from kvplan.core.model import Layer, Model
from kvplan.families import all_families
from kvplan.specs.catalogue import find_spec, load_found, spec_files
from kvplan.specs.config_json import read_config

UNTRUE = {
    "mistralai__Mistral-7B-Instruct-v0.2": "lacks the published sliding_window: null",
    "google__switch-c-2048": "describes 0.8 T of the published 1.6 T parameters, so it has no spec",
}
PATHS = [
    path
    for path in sorted((Path(__file__).parents[1] / "assets" / "configs").glob("*.json"))
    if path.stem not in UNTRUE
]
FAMILIES = {family.name for family in all_families()}


@cache
def pair(path: Path) -> tuple[Model, Model]:
    """The packaged spec and the config of one model."""
    name = path.stem.replace("__", "/", 1)
    found = find_spec(name)
    assert found is not None, f"no spec is called {name}"
    return load_found(found), read_config(json.loads(path.read_text(encoding="utf-8")), path.name, name)


def every_field(layers: tuple[Layer, ...]) -> list[str]:
    """The layers in words: kinds may pass over fields when they are compared."""
    return [repr(layer) for layer in layers]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_spec_has_the_layers_of_its_config_in_order(path: Path) -> None:
    spec, config = (model.architecture for model in pair(path))
    assert every_field(spec.layers) == every_field(config.layers)
    assert every_field(spec.draft_layers) == every_field(config.draft_layers)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_spec_has_the_facts_of_its_config(path: Path) -> None:
    spec, config = pair(path)
    facts = ("family", "architecture_class", "dtype", "kv_scheme", "kv_scheme_method")
    assert {name: getattr(spec, name) for name in facts} == {name: getattr(config, name) for name in facts}
    sizes = ("num_heads", "hidden_size", "encoder_tokens", "num_encoder_layers")
    assert [getattr(spec.architecture, name) for name in sizes] == [
        getattr(config.architecture, name) for name in sizes
    ]
    assert spec.weights.weight_format == config.weights.weight_format


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_spec_has_the_widths_of_its_config(path: Path) -> None:
    spec, config = (model.architecture.widths for model in pair(path))
    assert config is not None
    assert spec == config


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_spec_counts_the_parameters_of_its_config(path: Path) -> None:
    spec, config = (model.architecture.parameters for model in pair(path))
    assert spec is not None
    assert config is not None
    if config.towers or not spec.towers:  # some files lack their tower's config
        assert (spec.total, spec.active) == (config.total, config.active)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_spec_has_the_longest_context_of_its_config_or_notes_it(path: Path) -> None:
    # one spec serves the base and the tuned model: where their limits differ, its note has the other one
    spec, config = pair(path)
    limit = config.architecture.max_context_tokens
    noted = any(f"{limit} tokens" in note for note in spec.notes)
    assert spec.architecture.max_context_tokens == limit or noted


def test_only_llama_4_notes_another_limit() -> None:
    limits = {path.stem: [model.architecture.max_context_tokens for model in pair(path)] for path in PATHS}
    assert [name for name, (spec, config) in limits.items() if spec != config] == [
        "meta-llama__Llama-4-Maverick-17B-128E",
        "meta-llama__Llama-4-Scout-17B-16E",
    ]


@pytest.mark.parametrize("path", spec_files(), ids=lambda path: path.stem)
def test_the_family_of_a_spec_is_a_family(path: Path) -> None:
    assert load_found(path).family in {*FAMILIES, "spec"}
