"""Packaged specs are found by name and alias, and nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.core.errors import FileError, SpecError, UnknownNameError
from kvplan.specs import catalogue
from kvplan.specs.catalogue import catalogue_names, find_spec, load_packaged

SPEC = """\
name: {name}
aliases: [{aliases}]
source: {{url: "https://example.org", date: 2026-01-31}}
hidden_size: 512
num_heads: 8
kinds:
  full: {{kind: full_attention, num_kv_heads: {kv_heads}, head_dim: 64}}
layers: [{{pattern: [full], repeat: 6}}]
num_layers: 6
"""


def write_spec_file(folder: Path, stem: str, name: str, aliases: str = "", kv_heads: int = 4) -> Path:
    path = folder / f"{stem}.yaml"
    path.write_text(SPEC.format(name=name, aliases=aliases, kv_heads=kv_heads), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two specs in the only folder that is searched."""
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    write_spec_file(packaged, "llama-3.1-70b", "Llama-3.1-70B", "llama-70b, meta-llama/Llama-3.1-70B")
    write_spec_file(packaged, "toy-1b", "Toy-1B", "org/Toy-1B")
    monkeypatch.delenv(catalogue.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(catalogue, "spec_folders", lambda: [packaged])
    return packaged


@pytest.mark.parametrize(
    "ref",
    ["llama-3.1-70b", "Llama-3.1-70B", "LLAMA-70B", "meta-llama/Llama-3.1-70B", "META-LLAMA/llama-3.1-70b",
     " llama-70b "],
)  # fmt: skip
def test_a_spec_is_found_by_any_of_its_names(ref: str, folder: Path) -> None:
    assert find_spec(ref) == folder / "llama-3.1-70b.yaml"


@pytest.mark.parametrize("ref", ["llama", "70b", "3.1", "example.org", "full", "hidden_size", "org/", "../toy-1b", ""])
def test_a_part_of_a_name_or_of_the_text_finds_nothing(ref: str, folder: Path) -> None:
    assert find_spec(ref) is None


def test_an_exact_alias_wins_over_one_of_another_organization(folder: Path) -> None:
    other = write_spec_file(folder, "a-copy", "Copy", "other/Toy-1B")
    assert find_spec("other/toy-1b") == other
    assert find_spec("org/toy-1b") == folder / "toy-1b.yaml"


def test_only_files_that_mention_the_name_are_parsed(folder: Path) -> None:
    (folder / "broken.yaml").write_text("name: [", encoding="utf-8")
    assert load_packaged("toy-1b").name == "Toy-1B"


def test_an_unknown_name_is_answered_with_near_ones(folder: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_packaged("lama-70b")
    assert caught.value.hint is not None
    assert "llama-70b" in caught.value.hint


def test_the_names_of_a_spec_that_cannot_be_read_are_its_file_name(folder: Path) -> None:
    (folder / "broken.yaml").write_text("name: [", encoding="utf-8")
    assert {"broken", "Toy-1B", "org/Toy-1B", "llama-70b"} <= set(catalogue_names())


def test_a_folder_of_ones_own_comes_first_and_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_spec_file(tmp_path, "mine", "Mine", "llama-70b", kv_heads=2)
    monkeypatch.setenv(catalogue.FOLDER_VARIABLE, str(tmp_path))
    assert find_spec("llama-70b") == tmp_path / "mine.yaml"
    (tmp_path / "mine.yaml").write_text(SPEC.format(name="m", aliases="", kv_heads=0), encoding="utf-8")
    with pytest.raises(SpecError, match="num_kv_heads"):
        load_packaged("mine")


def test_a_wrong_folder_variable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(catalogue.FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileError, match=r"KVPLAN_SPECS.*nowhere"):
        find_spec("toy-1b")


def test_a_packaged_spec_costs_no_heavy_import(folder: Path) -> None:
    code = (
        "import sys; from kvplan.specs import catalogue; from pathlib import Path\n"
        f"catalogue.spec_folders = lambda: [Path({str(folder)!r})]\n"
        "from kvplan.specs.reference import resolve_model; resolve_model('org/toy-1b')\n"
        "heavy = {'pydantic', 'torch', 'transformers', 'huggingface_hub', 'kvplan.families', 'kvplan.specs.schema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_another_organization_is_another_model(folder: Path) -> None:
    assert find_spec("someone/llama-3.1-70b") is None
