"""The calibration file: laws of learning and correcting, and every way in which the file may be broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.errors import FileError
from kvplan.specs import calibration
from kvplan.specs.calibration import CalibrationRecord, Correction, calibration_path, correction, learn, read_records

RECORD = CalibrationRecord(
    engine="vllm",
    version="0.25.1",
    accelerator="h200-sxm",
    model="llama-8b",
    date="2026-11-24",
    activation_bytes=100,
    cuda_graph_bytes=-40,
    non_torch_bytes=7,
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a user who has none yet."""
    monkeypatch.setenv("KVPLAN_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config" / "calibration.json"


def test_the_file_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KVPLAN_CONFIG_DIR", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert calibration_path() == tmp_path / ".config" / "kvplan" / "calibration.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert calibration_path() == tmp_path / ".config" / "kvplan" / "calibration.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert calibration_path() == tmp_path / "xdg" / "kvplan" / "calibration.json"
    monkeypatch.setenv("KVPLAN_CONFIG_DIR", str(tmp_path / "own"))
    assert calibration_path() == tmp_path / "own" / "calibration.json"


def test_nothing_learnt_corrects_nothing(path: Path) -> None:
    assert correction("vllm", "0.25.1", "h200-sxm") == Correction()
    assert not path.exists()


def test_what_is_learnt_is_read_back(path: Path) -> None:
    assert learn(RECORD) == 1
    assert read_records() == (RECORD,)
    assert path.is_file()
    assert correction("vllm", "0.25.1", "h200-sxm") == Correction(
        activation_bytes=100, cuda_graph_bytes=-40, non_torch_bytes=7, num_starts=1
    )


def test_a_correction_is_the_median_of_the_starts_that_measured_the_line(path: Path) -> None:
    learn(RECORD)
    learn(replace(RECORD, model="b", activation_bytes=300, cuda_graph_bytes=None))
    learn(replace(RECORD, model="c", activation_bytes=9000, cuda_graph_bytes=None, non_torch_bytes=10))
    learn(replace(RECORD, model="d", activation_bytes=None, cuda_graph_bytes=-41, non_torch_bytes=None))
    assert correction("vllm", "0.25.1", "h200-sxm") == Correction(
        activation_bytes=300, cuda_graph_bytes=-40, non_torch_bytes=7, num_starts=4
    )


def test_starts_of_another_engine_release_or_device_do_not_count(path: Path) -> None:
    for other in (
        replace(RECORD, engine="sglang"),
        replace(RECORD, version="0.26.0"),
        replace(RECORD, version="0.2"),
        replace(RECORD, accelerator="h100-sxm"),
    ):
        learn(other)
    assert correction("vllm", "0.25.1", "h200-sxm").num_starts == 0


@pytest.mark.parametrize("version", ["0.25", "0.25.0", "v0.25.3", "0.25.1rc2+cu130"])
def test_patches_of_a_release_share_what_they_taught(version: str, path: Path) -> None:
    learn(RECORD)
    assert correction("vllm", version, "h200-sxm").num_starts == 1


def test_builds_without_a_dotted_version_stand_alone(path: Path) -> None:
    learn(replace(RECORD, engine="llamacpp", version="b4701"))
    assert correction("llamacpp", "b4701", "h200-sxm").num_starts == 1
    assert correction("llamacpp", "b4702", "h200-sxm").num_starts == 0


def test_the_same_start_counts_once(path: Path) -> None:
    learn(RECORD)
    assert learn(replace(RECORD, date="2026-12-01")) == 1
    assert learn(replace(RECORD, activation_bytes=101)) == 2
    assert [record.date for record in read_records()] == ["2026-12-01", "2026-11-24"]


def test_the_oldest_records_go_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MAX_RECORDS", 3)
    for size in range(5):
        learn(replace(RECORD, activation_bytes=size))
    assert [record.activation_bytes for record in read_records()] == [2, 3, 4]


def test_a_write_that_fails_leaves_the_old_file_and_no_scraps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(RECORD)

    def fail(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(FileError, match="cannot be written"):
        learn(replace(RECORD, model="b"))
    assert read_records() == (RECORD,)
    assert [each.name for each in path.parent.iterdir()] == ["calibration.json"]


def test_a_linked_file_stays_linked(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere.json")
    learn(RECORD)
    assert path.is_symlink()
    assert read_records(tmp_path / "elsewhere.json") == (RECORD,)


def test_a_folder_that_cannot_be_made_is_one_clear_line(path: Path) -> None:
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(FileError, match="cannot be written"):
        learn(RECORD)


GOOD = {"engine": "vllm", "version": "0.25", "accelerator": "h200", "model": "m", "date": "2026-11-24"}
BROKEN = {
    "not JSON": ("{", "is not valid JSON"),
    "not an object": ("[]", "is not a calibration file"),
    "no schema": ("{}", "has schema None"),
    "a later schema": ('{"schema": 2}', "has schema 2"),
    "no records": ('{"schema": 1, "records": {}}', "has no list of records"),
    "a record that is none": ('{"schema": 1, "records": [1]}', "record 1 does not have the keys"),
    "a record without a model": (
        json.dumps({"schema": 1, "records": [{k: v for k, v in GOOD.items() if k != "model"}]}),
        "record 1 does not have the keys",
    ),
    "an unknown key": (json.dumps({"schema": 1, "records": [GOOD | {"x": 1}]}), "record 1 does not have the keys"),
    "a name that is no text": (
        json.dumps({"schema": 1, "records": [GOOD, GOOD | {"model": 1}]}),
        "record 2: model must be text, not 1",
    ),
    "bytes that are no number": (
        json.dumps({"schema": 1, "records": [GOOD | {"activation_bytes": 1.5}]}),
        "record 1: activation_bytes must be a whole number of bytes or null, not 1.5",
    ),
    "bytes that are a truth value": (
        json.dumps({"schema": 1, "records": [GOOD | {"non_torch_bytes": True}]}),
        "record 1: non_torch_bytes must be a whole number",
    ),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_and_never_overwritten(text: str, words: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_text(text)
    for use in (lambda: correction("vllm", "0.25", "h200"), lambda: learn(RECORD)):
        with pytest.raises(FileError) as caught:
            use()
        assert str(path) in caught.value.message
        assert words in caught.value.message
        assert "delete it" in (caught.value.hint or "")
    assert path.read_text() == text
