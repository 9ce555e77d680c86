"""Specs: what is written reads back the same, and every mistake of a file is reported at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.core.attention import FullAttention, IndexKeys, Latent, LayerKind, Shared, SlidingWindow
from kvplan.core.errors import FileError, KvplanError, SpecError, UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.kinds import KINDS
from kvplan.core.model import Architecture, Layer, Model, Parameters, WeightsOnDisk
from kvplan.core.recurrent import Mamba2
from kvplan.specs.config_json import read_config
from kvplan.specs.schema import check_spec
from kvplan.specs.spec_writer import compress, write_spec
from kvplan.specs.spec_yaml import build_model, read_spec
from kvplan.specs.yaml_file import load_yaml

CONFIGS = sorted((Path(__file__).parent.parent / "assets" / "configs").glob("*.json"))
WIN = SlidingWindow(num_kv_heads=4, head_dim=64, window=1024)
FULL = FullAttention(num_kv_heads=4, head_dim=64)


def model(layers: tuple[Layer, ...], **changes: Any) -> Model:
    architecture = Architecture(layers=layers, hidden_size=512, num_heads=8, max_context_tokens=32768)
    fields = {"name": "toy", "source": "https://example.org/toy", "family": "gemma", "dtype": "bf16", **changes}
    notes = fields.pop("notes", ())
    return Model(architecture=dataclasses.replace(fields.pop("architecture", architecture), notes=notes), **fields)


def reread(text: str) -> Model:
    mapping = load_yaml(text, "spec")
    assert check_spec(mapping) == []
    return build_model(mapping, "spec")


# -- round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_reads_back_from_its_spec(path: Path) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    try:
        original = read_config(values, f"configs/{path.name}", path.stem)
    except KvplanError as error:
        pytest.skip(f"refused as a config: {error}")
    assert reread(write_spec(original)) == original


def some_kind(kind: type[LayerKind]) -> st.SearchStrategy[LayerKind]:
    names = [entry.name for entry in dataclasses.fields(kind) if entry.default is dataclasses.MISSING]
    return st.builds(kind, **{name: st.integers(1, 999) for name in names})


ANY_KIND = st.one_of([some_kind(kind) for name, kind in KINDS.items() if name != "compressed_stream"])
TEXT = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable() and text.strip())


@settings(max_examples=60, deadline=None)
@given(
    layers=st.lists(st.lists(ANY_KIND, min_size=1, max_size=2).map(tuple), min_size=1, max_size=12),
    repeat=st.integers(1, 6),
    name=TEXT,
    aliases=st.lists(TEXT, max_size=3),
    notes=st.lists(TEXT, max_size=2),
    parameters=st.none() | st.builds(Parameters, embedding=st.integers(0, 10**12), mlp=st.integers(0, 10**12)),
)
def test_any_model_reads_back_from_its_spec(
    layers: list[Layer], repeat: int, name: str, aliases: list[str], notes: list[str], parameters: Parameters | None
) -> None:
    architecture = Architecture(
        layers=tuple(layers) * repeat, draft_layers=tuple(layers[:1]), hidden_size=8, num_heads=None,
        max_context_tokens=None, encoder_tokens=7, parameters=parameters,
    )  # fmt: skip
    weights = WeightsOnDisk(weight_format="Q4_K_M", exact_bytes=5)
    original = model(
        (), architecture=architecture, name=name, aliases=tuple(aliases), notes=tuple(notes), weights=weights
    )
    assert reread(write_spec(original)) == original


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_compressed_patterns_spell_the_same_layers(entries: list[str]) -> None:
    assert [entry for pattern, repeat in compress(entries) for entry in pattern * repeat] == entries


@pytest.mark.parametrize(
    ("entries", "groups"),
    [
        ("wwwwwf" * 10 + "ww", [("wwwwwf", 10), ("w", 2)]),  # Gemma-3-27B
        ("f" * 80, [("f", 80)]),
        ("d" + "m" * 60, [("d", 1), ("m", 60)]),
        ("wf" * 18, [("wf", 18)]),
        ("abc", [("abc", 1)]),
        ("", []),
    ],
)
def test_patterns_are_written_as_people_say_them(entries: str, groups: list[tuple[str, int]]) -> None:
    assert compress(list(entries)) == [(list(pattern), repeat) for pattern, repeat in groups]


def test_the_text_is_laid_out_for_people() -> None:
    layers = (((WIN,),) * 5 + ((FULL,),)) * 2 + ((WIN,),)
    parameters = Parameters(embedding=100, mlp=20, active=60)
    architecture = Architecture(
        layers=layers, hidden_size=512, num_heads=8, max_context_tokens=32768, parameters=parameters
    )
    text = write_spec(model((), architecture=architecture, aliases=("org/toy",)), date="2026-01-31")
    assert text == (
        "name: toy\n"
        "aliases: [org/toy]\n"
        "family: gemma\n"
        "dtype: bf16\n"
        'source: {url: "https://example.org/toy", date: 2026-01-31}\n'
        "max_context_tokens: 32768\n"
        "hidden_size: 512\n"
        "num_heads: 8\n"
        "\n"
        "kinds:\n"
        "  win: {kind: sliding_window, num_kv_heads: 4, head_dim: 64, window: 1024}\n"
        "  full: {kind: full_attention, num_kv_heads: 4, head_dim: 64}\n"
        "layers:\n"
        "  - {pattern: [win, win, win, win, win, full], repeat: 2}\n"
        "  - {pattern: [win]}\n"
        "num_layers: 13\n"
        "\n"
        "parameters:\n"
        "  embedding: 100\n"
        "  mlp: 20\n"
        "  total: 120\n"
        "  active: 60\n"
        "  certainty: rule\n"
    )


def test_layers_with_several_caches_are_joined_by_a_plus() -> None:
    layers = ((Latent(kv_lora_rank=512, qk_rope_head_dim=64), IndexKeys(head_dim=128)),) * 3
    assert "{pattern: [mla+index], repeat: 3}" in write_spec(model(layers))


def test_kinds_of_one_class_get_numbered_names() -> None:
    other = FullAttention(num_kv_heads=1, head_dim=512)
    assert "{pattern: [full, full_2]}" in write_spec(model(((FULL,), (other,))))


def test_what_a_shared_layer_reads_survives() -> None:
    again = reread(write_spec(model(((FULL,), (WIN,), (Shared(source_layer=0),), (Shared(source_layer=1),)))))
    shared = [layer[0] for layer in again.architecture.layers[2:]]
    assert [kind.source_layer for kind in shared if isinstance(kind, Shared)] == [0, 1]


def test_a_kind_without_an_entry_cannot_be_written() -> None:
    @dataclass(frozen=True)
    class Foreign(LayerKind):
        kind = "foreign"

    with pytest.raises(UnsupportedError, match="Foreign"):
        write_spec(model(((Foreign(),),)))


def test_provenance_is_kept_and_a_given_source_wins() -> None:
    original = model(((FULL,),), provenance={"url": "https://example.org/toy", "revision": "abc", "date": "2026-01-31"})
    assert reread(write_spec(original)).provenance == original.provenance
    assert reread(write_spec(original, url="https://example.org/new")).source == "https://example.org/new"


# -- mistakes ---------------------------------------------------------------------------------------------------

GOOD = """\
name: toy
source: {url: "https://example.org", date: 2026-01-31}
hidden_size: 512
num_heads: 8
kinds:
  win: {kind: sliding_window, num_kv_heads: 4, head_dim: 64, window: 1024}
  full: {kind: full_attention, num_kv_heads: 4, head_dim: 64}
layers: [{pattern: [win, full], repeat: 3}]
num_layers: 6
parameters: {embedding: 5, mlp: 7, total: 12}
"""


def problems_of(text: str, folder: Path) -> list[str]:
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        read_spec(path)
    return list(caught.value.problems)


def test_the_sound_spec_is_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD, encoding="utf-8")
    read = read_spec(path)
    assert read.architecture.layers == ((WIN,), (FULL,)) * 3
    assert read.provenance == {"url": "https://example.org", "date": "2026-01-31"}


def test_all_mistakes_are_reported_at_once_with_their_paths(tmp_path: Path) -> None:
    text = (
        GOOD.replace("window: 1024", "windw: 1024")
        .replace("head_dim: 64}", "head_dim: 0}")
        .replace("hidden_size: 512", "hidden_size: wide")
        .replace("num_layers: 6", "num_layers: 7")
        .replace("total: 12", "total: 13")
        .replace("repeat: 3", "repeat: 3, repat: 3")
        .replace("[win, full]", "[win, fill, full]")
        + "layres: 2\n"
    )
    assert problems_of(text, tmp_path) == [
        "hidden_size: must be a valid integer",
        "layers.0.repat: unknown field; did you mean repeat?",
        "layres: unknown field; did you mean layers or num_layers?",
        "kinds.win.window: is missing",
        "kinds.win.windw: unknown field; did you mean window or kind?",
        "kinds.full: head_dim must be a positive whole number, not 0",
        "layers: the kind 'fill' is not described under kinds; did you mean full?",
        "num_layers: says 7, but the patterns under layers make 9",
        "parameters.total: says 13, but the parts add up to 12",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("name: toy\n", "", "name: is missing"),
        ("kind: full_attention", "kind: ful_attention", "kinds.full.kind: unknown kind 'ful_attention'; did you mean"),
        ("kind: full_attention, ", "", "kinds.full.kind: is missing"),
        ("repeat: 3", "repeat: 0", "layers.0.repeat"),
        ("repeat: 3", "repeat: 1000000000", "layers.0.repeat"),
        ("num_heads: 8", "num_heads: true", "num_heads: must be a valid integer"),
        ("num_heads: 8", 'num_heads: "8"', "num_heads: must be a valid integer"),
        ("[win, full]", "[full, full]", "kinds.win: no layer uses it"),
        ("[win, full]", "[]", "layers.0.pattern"),
        ("date: 2026-01-31", "revision: abc", "source.date: is missing"),
        ('url: "https://example.org", ', "", "source: needs a url or a file"),
        ("total: 12", "total: 12, active: 13", "parameters.active: 13 is more than the total 12"),
        ("total: 12", "certainty: sure, total: 12", "parameters.certainty"),
        ("num_heads: 8", "num_heads: 8\ndtype: int8", "dtype: must be 'bf16' or 'fp16'"),
        ("window: 1024", "window: 1024.5", "kinds.win.window"),
    ],
)
def test_a_single_mistake_is_named(old: str, new: str, problem: str, tmp_path: Path) -> None:
    assert old in GOOD
    found = problems_of(GOOD.replace(old, new), tmp_path)
    assert any(line.startswith(problem) for line in found), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "name: again\n", "the key 'name' is there twice"),
        (GOOD.replace("window: 1024", "window: 1024, window: 512"), "'window' is there twice"),
        ("- a\n", "a mapping of names"),
        ("", "a mapping of names"),
        ("name: [", "not valid YAML"),
        ("name: !!python/object:os.system x", "anchor or a tag"),
        ("a: &x [1]\nb: *x", "anchor or a tag"),
        ("[" * 900_000, "nested too deeply"),  # crashes the parser in C when it gets that far
        ("- " * 100_000, "nested too deeply"),
        ("a: 2026-99-99", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: \x01", "not valid YAML"),
        ("a: b\n" * 300_000, "too large"),
    ],
)
def test_text_that_is_no_spec_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=said) as caught:
        read_spec(path)
    assert "\n" not in caught.value.message


def test_a_spec_that_was_never_checked_still_fails_as_a_spec() -> None:
    with pytest.raises(SpecError):
        build_model(load_yaml(GOOD.replace("window: 1024", "windw: 1024"), "x"), "x")


# -- the short form ---------------------------------------------------------------------------------------------

SHORT = "name: next\nnum_layers: 32\nhidden_size: 4096\nnum_heads: 32\nnum_kv_heads: 8\n"


def short(text: str, folder: Path) -> Model:
    path = folder / "next.yaml"
    path.write_text(text, encoding="utf-8")
    return read_spec(path)


def test_five_numbers_make_a_model(tmp_path: Path) -> None:
    read = short(SHORT, tmp_path)
    assert read.architecture.layers == ((FullAttention(num_kv_heads=8, head_dim=128),),) * 32
    assert (read.architecture.parameters, read.source) == (None, str(tmp_path / "next.yaml"))


def test_both_forms_name_the_class_that_engines_know(tmp_path: Path) -> None:
    numbers = "num_layers: 2\nhidden_size: 64\nnum_heads: 4\nnum_kv_heads: 4\n"
    named = short(f"name: x\narchitecture_class: LlamaForCausalLM\n{numbers}", tmp_path)
    assert named.architecture_class == "LlamaForCausalLM"
    assert reread(write_spec(named)).architecture_class == "LlamaForCausalLM"
    assert short(f"name: x\n{numbers}", tmp_path).architecture_class is None


def test_the_short_form_counts_the_parameters_of_llama_3_1_8b(tmp_path: Path) -> None:
    read = short(SHORT + "vocab_size: 128256\nintermediate_size: 14336\n", tmp_path)
    assert read.architecture.parameters is not None
    assert read.architecture.parameters.total == 8_030_261_248  # meta-llama/Llama-3.1-8B, safetensors metadata


def test_the_short_form_knows_windows_and_latents(tmp_path: Path) -> None:
    assert short(SHORT + "window: 512\nhead_dim: 64\n", tmp_path).architecture.layers[0] == (
        SlidingWindow(num_kv_heads=8, head_dim=64, window=512),
    )
    latent = SHORT.replace("num_kv_heads: 8", "kv_lora_rank: 512\nqk_rope_head_dim: 64")
    assert short(latent, tmp_path).architecture.layers[0] == (Latent(kv_lora_rank=512, qk_rope_head_dim=64),)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "name: next\nnum_layers: 32\n",
            [
                "hidden_size: is missing",
                "num_heads: is missing",
                "num_kv_heads: is missing (or kv_lora_rank, for latent attention)",
            ],
        ),
        (
            SHORT.replace("4096", "4097"),
            ["head_dim: is missing, and hidden_size 4097 is not a multiple of num_heads 32"],
        ),
        (SHORT.replace("heads: 8", "heads: 5"), ["num_kv_heads: 32 query heads cannot share 5 KV heads evenly"]),
        (SHORT + "kv_lora_rank: 512\n", ["num_kv_heads: latent attention has none"]),
        (SHORT + "window:\n", ["window: must not be empty"]),
        (
            SHORT + "head_dims: 4\n",
            ["head_dims: unknown field; did you mean head_dim or v_head_dim or qk_rope_head_dim?"],
        ),
    ],
)
def test_the_short_form_names_what_it_lacks(text: str, problems: list[str], tmp_path: Path) -> None:
    assert problems_of(text, tmp_path) == problems


def test_a_state_kind_reads_with_its_dtypes(tmp_path: Path) -> None:
    state = Mamba2(num_heads=4, head_dim=8, state_size=16, num_groups=1, conv_kernel=4, state_dtype="model")
    assert reread(write_spec(model(((state,),)))).architecture.layers == ((state,),)
