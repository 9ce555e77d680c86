"""The packaged specs: sound, unambiguous, sourced, and in agreement with figures that do not come from kvplan."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.kinds import KINDS
from kvplan.core.model import Layer, Model
from kvplan.core.part import Part, state_bytes
from kvplan.core.weights import get_weight_format
from kvplan.specs.catalogue import find_spec
from kvplan.specs.schema import check_spec
from kvplan.specs.spec_yaml import build_model, contradictions
from kvplan.specs.yaml_file import load_yaml, load_yaml_file

FOLDER = Path(__file__).parents[2] / "model_specs"
PATHS = sorted(FOLDER.glob("*.yaml"))
BF16_BYTES = 2
UNBOUNDED = 2**30
"""Context of a model that sets no limit; beyond every window."""


@cache
def mapping(path: Path) -> dict[str, Any]:
    return load_yaml_file(path)


@cache
def spec(path: Path) -> Model:
    return build_model(mapping(path), str(path))


def named(name: str) -> Model:
    path = find_spec(name)
    assert path is not None, f"no spec is called {name}"
    return spec(path)


def parts(layers: tuple[Layer, ...]) -> list[Part]:
    return [part for layer in layers for kind in layer for part in kind.parts()]


def token_bytes(model: Model, context_tokens: int) -> Fraction:
    """Bytes in bf16 that one more token adds at this context."""
    rows = (
        part.rows_per_token(context_tokens) * part.num_heads * part.width for part in parts(model.architecture.layers)
    )
    return BF16_BYTES * sum(rows, Fraction(0))


def stored_bytes(model: Model, context_tokens: int) -> int:
    """Bytes in bf16 of all rows that geometry keeps at this context, state apart."""
    return BF16_BYTES * sum(
        part.rows(part.resident_tokens(context_tokens, model.architecture.encoder_tokens or 0))
        * part.num_heads * part.width
        for part in parts(model.architecture.layers)
    )  # fmt: skip


def fixed_bytes(model: Model) -> int:
    """State, and rows of the encoder's tokens where the model fixes their number."""
    architecture = model.architecture
    states = sum(state_bytes(state) for layer in architecture.layers for kind in layer for state in kind.states())
    encoded = [part for part in parts(architecture.layers) if part.encoder]
    rows = sum(part.num_heads * part.width for part in encoded) * (architecture.encoder_tokens or 0)
    return states + BF16_BYTES * rows


# -- every spec -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_packaged_spec_passes_the_checks_of_an_external_one(path: Path) -> None:
    assert check_spec(mapping(path)) == []
    assert contradictions(mapping(path)) == []


def test_at_least_120_models_are_packaged() -> None:
    assert len(PATHS) >= 120


def test_a_spec_is_called_like_its_file() -> None:
    assert [path.stem for path in PATHS] == [mapping(path)["name"] for path in PATHS]
    assert not [path.name for path in PATHS if path.name != path.name.lower()]


def test_no_name_means_two_models_whatever_the_case_or_the_organization() -> None:
    names = [
        {name.lower().rpartition("/")[2] for name in (mapping(path)["name"], *mapping(path)["aliases"])}
        for path in PATHS
    ]
    assert not {name: count for name, count in Counter(name for each in names for name in each).items() if count > 1}
    aliases = [alias.lower() for path in PATHS for alias in mapping(path)["aliases"]]
    assert len(aliases) == len(set(aliases))


def test_every_spec_states_its_counts_its_source_and_the_day() -> None:
    for path in PATHS:
        values = mapping(path)
        assert {"num_layers", "hidden_size", "family", "dtype"} <= values.keys(), path.name
        assert values["source"]["url"].startswith("https://"), path.name
        assert str(values["source"]["date"]).startswith("20"), path.name
        assert values["parameters"]["total"] == spec(path).architecture.parameters.total, path.name  # type: ignore[union-attr]
        assert values["num_layers"] == spec(path).architecture.num_layers, path.name


def test_exact_counts_name_what_counted_them() -> None:
    for path in PATHS:
        is_exact = mapping(path)["parameters"]["certainty"] == "exact"
        assert is_exact == ("parameters" in mapping(path)["source"]), path.name


def test_stated_weight_formats_are_known() -> None:
    for path in PATHS:
        weight_format = mapping(path).get("weights", {}).get("format")
        if weight_format is not None:
            assert get_weight_format(weight_format).name


def test_layers_grow_and_hold_what_is_expected_of_them() -> None:
    """``expect``: transformers 5.23's own cache classes on the meta device, or hand arithmetic from the config.

    States are hand arithmetic, since transformers keeps them in other dtypes than the reference kernels.
    """
    held = [path for path in PATHS if "expect" in mapping(path)]
    assert len(held) > 200
    for path in held:
        expected, model = mapping(path)["expect"], spec(path)
        context = model.architecture.max_context_tokens or UNBOUNDED
        found = (token_bytes(model, context), fixed_bytes(model))
        assert found == (expected["bytes_per_token"], expected.get("fixed_bytes", 0)), path.name


def test_every_layer_kind_has_a_published_model() -> None:
    found = {kind.kind for path in PATHS for layer in spec(path).architecture.layers for kind in layer}
    assert found == set(KINDS)


def test_only_a_drafter_stores_nothing() -> None:
    # a model that costs nothing is the commonest wrong answer of planners (architecture search, hybrid patterns)
    empty = [path.stem for path in PATHS if not stored_bytes(spec(path), 4096) + fixed_bytes(spec(path))]
    assert empty == ["gemma-4-31b-assistant"]


# -- one vector per trap ----------------------------------------------------------------------------------------


def test_llama_3_1_70b() -> None:
    # 80 layers x 8 KV heads x 128 x key and value x 2 bytes; Hub: 70,553,706,496 parameters
    model = named("llama-70b")
    assert token_bytes(model, 8192) == 327_680
    assert model.architecture.parameters is not None
    assert model.architecture.parameters.total == 70_553_706_496


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-ai/DeepSeek-R1", "deepseek-r1"])
def test_deepseek_v3_stores_a_latent_and_a_rotary_key_once(name: str) -> None:
    # 61 layers x (512 + 64) x 2 bytes (DeepSeek-V3 report, arXiv 2412.19437); heads do not count
    assert token_bytes(named(name), 8192) == 70_272


def test_falcon_7b_has_one_kv_head() -> None:
    # multi_query in its config: 32 layers x 1 head x 64 x 2 x 2 bytes, where 71 query heads would take 581,632
    assert token_bytes(named("falcon-7b"), 1024) == 8_192


def test_gpt_oss_20b_grows_in_half_of_its_layers_beyond_the_window() -> None:
    # 24 layers x 8 KV heads x 64 x 2 x 2 bytes within the window of 128, 12 layers beyond it
    model = named("gpt-oss-20b")
    assert (token_bytes(model, 127), token_bytes(model, 128)) == (49_152, 24_576)


def test_gemma_4_31b_keeps_bare_windows() -> None:
    # 10 full layers x 4 heads x 512 x 2 x 2 x 262144 + 50 layers x 16 heads x 256 x 2 x 2 x 1024
    assert stored_bytes(named("gemma-4-31b"), 262_144) == 22_313_697_280


def test_nemotron_super_49b_is_not_free() -> None:
    # block_configs: 49 of 80 blocks attend, each with 64 / 8 = 8 KV heads of 128
    assert token_bytes(named("nemotron-super-49b"), 8192) == 200_704


def test_qwen3_5_27b_attends_in_one_layer_of_four() -> None:
    # 16 of 64 layers x 4 KV heads x 256 x 2 x 2 bytes
    assert token_bytes(named("qwen3.5-27b"), 8192) == 65_536


def test_nemotron_h_56b_charges_no_mlp_block() -> None:
    # hybrid_override_pattern: 10 of 118 blocks are attention, 8 KV heads of 128
    assert token_bytes(named("nemotron-h-56b"), 4096) == 40_960


def test_mistral_7b_lost_its_window_in_version_0_2() -> None:
    # sliding_window: 4096 in v0.1, null in v0.2 and v0.3
    windows = {
        version: {kind.window_tokens for layer in named(f"mistral-7b-{version}").architecture.layers for kind in layer}
        for version in ("v0.1", "v0.2", "v0.3")
    }
    assert windows == {"v0.1": {4096}, "v0.2": {None}, "v0.3": {None}}


# Published: safetensors totals on the Hub. A router's correction bias is a buffer and does not count.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llama-8b", 8_030_261_248),
        ("llama-3.1-405b", 405_853_388_800),
        ("qwen2.5-72b", 72_706_203_648),
        ("mixtral", 46_702_792_704),
        ("mistral-small-3.1-24b", 24_011_361_280),
        ("gemma-3-12b", 12_187_325_040),
        ("llama-3.2-11b-vision", 10_670_220_835),
        ("bloom", 176_247_271_424),
        ("gpt-neox-20b", 20_554_567_680),
    ],
)
def test_totals_are_those_published(name: str, total: int) -> None:
    parameters = named(name).architecture.parameters
    assert parameters is not None
    assert parameters.total == total


# -- the README -------------------------------------------------------------------------------------------------


def readme_specs() -> list[str]:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_shows_a_short_and_a_full_spec() -> None:
    assert len(readme_specs()) >= 2


@pytest.mark.parametrize("text", readme_specs(), ids=lambda text: text.splitlines()[0])
def test_examples_of_the_readme_are_specs(text: str) -> None:
    values = load_yaml(text, "README.md")
    assert check_spec(values) == []
    model = build_model(values, "README.md")
    assert model.architecture.num_layers == values["num_layers"]
    if "expect" in values:
        found = {"bytes_per_token": token_bytes(model, UNBOUNDED), "fixed_bytes": fixed_bytes(model)}
        assert values["expect"] == found


def test_the_readme_explains_every_kind_and_every_field() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    fields = {key for path in PATHS for key in mapping(path)}
    fields |= {key for path in PATHS for kind in mapping(path)["kinds"].values() for key in kind}
    assert not {name for name in fields | set(KINDS) if f"`{name}`" not in text}
