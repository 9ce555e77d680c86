"""The file of results: killed at any byte it goes on, and it never mixes what cannot be compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from kvplan.core.errors import EvaluationError, FileError
from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate import run as run_module
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.needle import NeedleSettings
from kvplan.runtime.evaluate.perplexity import PerplexitySettings
from kvplan.runtime.evaluate.qa import QaSettings
from kvplan.runtime.evaluate.results_file import Header, ResultsFile, record_key
from kvplan.runtime.evaluate.run import Step, fixed_settings, run
from kvplan.runtime.evaluate.tasks import Piece

HEADER = Header(model="demo", device="cpu", settings={"chunk": 32}, versions={"torch": "2.13"}, seed=0)
INT8 = Method(kv_dtype="int8_per_token_head")


def record(sample: str, method: str = "none") -> Record:
    return Record(task="qa", method=method, sample=sample, values={"correct": 1})


RECORDS = [record("one"), record("zwei ü\u2028"), record("three", "int8_per_token_head")]


def written(path: Path, records: Sequence[Record] = RECORDS) -> Path:
    assert list(ResultsFile(path, HEADER).append(records)) == list(records)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "quality.jsonl"


def test_what_is_written_is_read_back(path: Path) -> None:
    assert ResultsFile(path, HEADER).read() == []
    assert ResultsFile(written(path), HEADER).read() == RECORDS


def test_a_later_run_goes_on_behind_it(path: Path) -> None:
    written(path)
    written(path, [record("four")])
    assert ResultsFile(path, HEADER).read() == [*RECORDS, record("four")]
    assert sum("kvplan evaluate" in line for line in path.read_text().split("\n")) == 1


def test_a_record_is_on_disk_before_the_next_one_is_made(path: Path) -> None:
    def slow() -> Iterator[Record]:
        for number, each in enumerate(RECORDS):
            assert len(ResultsFile(path, HEADER).read()) == number
            yield each

    assert len(list(ResultsFile(path, HEADER).append(slow()))) == 3


def test_a_file_cut_at_any_byte_is_read_as_far_as_it_is_whole_and_goes_on(path: Path) -> None:
    content = written(path).read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = max(0, content[:length].count(b"\n") - 1)
        assert ResultsFile(path, HEADER).read() == RECORDS[:whole]
        written(path, RECORDS[whole:])
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (replace(HEADER, model="other"), "was written with model 'demo', this run has 'other'"),
        (replace(HEADER, settings={"chunk": 1}), "was written with settings.chunk 32, this run has 1"),
        (replace(HEADER, settings={}), "was written with settings.chunk 32, this run has None"),
        (replace(HEADER, versions={"torch": "2.12"}), "with versions.torch '2.13', this run has '2.12'"),
        (replace(HEADER, seed=1), "was written with seed 0, this run has 1"),
    ],
)
def test_a_file_of_another_model_or_setting_is_refused_in_one_line(path: Path, header: Header, message: str) -> None:
    content = written(path).read_bytes()
    for touch in (ResultsFile(path, header).read, lambda: list(ResultsFile(path, header).append(RECORDS))):
        with pytest.raises(FileError, match=message) as raised:
            touch()
        assert "\n" not in str(raised.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["notes", "notes\nof mine\n", "{}\n", '{"task": 1}\n', "[1]\n", "\n", "\x00\n"])
def test_a_file_that_is_somebody_elses_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    for touch in (ResultsFile(path, HEADER).read, lambda: list(ResultsFile(path, HEADER).append(RECORDS))):
        with pytest.raises(FileError, match="results file of kvplan evaluate"):
            touch()
    assert path.read_text() == content


def test_a_line_in_the_middle_that_is_no_record_is_named(path: Path) -> None:
    lines = written(path).read_text().split("\n")
    path.write_text("\n".join([lines[0], lines[1], "{}", lines[2], ""]))
    with pytest.raises(FileError, match="line 3 is no record"):
        ResultsFile(path, HEADER).read()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        ResultsFile(tmp_path, HEADER).read()


def test_processes_write_files_of_their_own_and_one_folds_them(path: Path) -> None:
    written(path, RECORDS[:1])
    second = ResultsFile(path, HEADER, rank=1)
    list(second.append(RECORDS[1:]))
    assert path.with_name("quality.rank1.jsonl").exists()
    assert ResultsFile(path, HEADER).read() == second.read() == RECORDS
    ResultsFile(path, HEADER).fold([record("five")])
    assert os.listdir(path.parent) == ["quality.jsonl"]
    assert ResultsFile(path, HEADER).read() == [*RECORDS, record("five")]


def test_every_process_may_have_a_gpu_of_its_own_but_not_another_kind_of_device(path: Path) -> None:
    list(ResultsFile(path, replace(HEADER, device="cuda:0")).append(RECORDS[:1]))
    assert ResultsFile(path, replace(HEADER, device="cuda:1"), rank=1).read() == RECORDS[:1]
    with pytest.raises(FileError, match="was written with device 'cuda', this run has 'cpu'"):
        ResultsFile(path, HEADER).read()


def pieces(asked: list[tuple[str, str]], fail_at: int = 1000) -> list[Piece]:
    """Three pieces of two samples; what is measured is noted, and the power goes out at the ``fail_at``-th."""

    def piece(names: tuple[str, ...]) -> Piece:
        def measure(methods: Sequence[Method]) -> Iterator[Record]:
            for method in methods:
                for name in names:
                    if len(asked) == fail_at:
                        raise KeyboardInterrupt
                    asked.append((name, method.text))
                    yield record(name, method.text)

        return Piece(tasks=("qa",), samples=names, measure=measure)

    return [piece(("a", "b")), piece(("c", "d")), piece(("e", "f"))]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The texts that the self-check was run on."""
    found: list[str | None] = []
    monkeypatch.setattr(run_module, "self_check", lambda handle, text: found.append(text))
    return found


ALL = [(name, method) for pair in ("ab", "cd", "ef") for method in ("none", INT8.text) for name in pair]


@pytest.mark.parametrize("killed_at", range(12))
def test_a_run_that_was_killed_goes_on_where_it_stopped(path: Path, checks: list[str | None], killed_at: int) -> None:
    first: list[tuple[str, str]] = []
    with pytest.raises(KeyboardInterrupt):
        run(None, [INT8], pieces(first, killed_at), results=ResultsFile(path, HEADER))  # type: ignore[arg-type]
    second: list[tuple[str, str]] = []
    results = ResultsFile(path, HEADER)
    found = run(None, [INT8], pieces(second), results=results)  # type: ignore[arg-type]
    assert [(one.sample, one.method) for one in found] == ALL
    assert len(results.read()) == 12
    stored = path.read_text().split("\n")[1:-1]
    assert sorted((json.loads(line)["sample"], json.loads(line)["method"]) for line in stored) == sorted(ALL)
    assert len(second) <= 12 - killed_at + 1  # one sample of the method that was cut short is measured again
    assert len(checks) == 2


def test_a_run_that_is_done_measures_and_checks_nothing(path: Path, checks: list[str | None]) -> None:
    run(None, [INT8], pieces([]), results=ResultsFile(path, HEADER), check_text="text")  # type: ignore[arg-type]
    asked: list[tuple[str, str]] = []
    found = run(None, [INT8], pieces(asked), results=ResultsFile(path, HEADER))  # type: ignore[arg-type]
    assert len(found) == 12
    assert not asked
    assert checks == ["text"]


def test_another_method_is_added_without_measuring_the_first_again(path: Path, checks: list[str | None]) -> None:
    run(None, [INT8], pieces([]), results=ResultsFile(path, HEADER))  # type: ignore[arg-type]
    asked: list[tuple[str, str]] = []
    fp8 = Method(kv_dtype="fp8_e4m3")
    found = run(None, [fp8], pieces(asked), results=ResultsFile(path, HEADER))  # type: ignore[arg-type]
    assert {method for _, method in asked} == {"fp8_e4m3"}
    assert {one.method for one in found} == {"none", "fp8_e4m3"}


def test_progress_counts_what_is_done_already(path: Path, checks: list[str | None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(None, [INT8], pieces([], 4), results=ResultsFile(path, HEADER))  # type: ignore[arg-type]
    steps: list[Step] = []
    run(None, [INT8], pieces([]), results=ResultsFile(path, HEADER), progress=steps.append)  # type: ignore[arg-type]
    assert [step.done for step in steps] == list(range(5, 13))
    assert steps[0] == Step(done=5, total=12, task="qa", method="none")


def test_a_self_check_that_fails_ends_the_run_before_any_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(handle: object, text: object) -> None:
        raise EvaluationError("self-check: nothing is read")

    monkeypatch.setattr(run_module, "self_check", blind)
    asked: list[tuple[str, str]] = []
    with pytest.raises(EvaluationError, match="self-check"):
        run(None, [INT8], pieces(asked))  # type: ignore[arg-type]
    assert not asked


def test_times_are_taken_after_everything_else(checks: list[str | None]) -> None:
    def measure(methods: Sequence[Method]) -> Iterator[Record]:
        asked.append(("time", ""))
        yield from (Record(task="latency", method=one.text, sample="t", values={}) for one in methods)

    asked: list[tuple[str, str]] = []
    timed = Piece(tasks=("latency",), samples=("t",), measure=measure)
    found = run(None, [], [timed, *pieces(asked)])  # type: ignore[arg-type]
    assert asked[-1] == ("time", "")
    assert record_key(found[0]) == ("latency", "none", "t")


def test_settings_that_samples_are_named_by_may_differ_and_others_not(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one")
    few = fixed_settings([PerplexitySettings(num_samples=8, text=text), NeedleSettings(per_cell=2), QaSettings()])
    many = fixed_settings([PerplexitySettings(num_samples=80, text=text), NeedleSettings(per_cell=9), QaSettings()])
    assert few == many
    assert fixed_settings([PerplexitySettings(chunk_tokens=1)]) != fixed_settings([PerplexitySettings()])
    assert fixed_settings([QaSettings(question_aware=False)]) != fixed_settings([QaSettings()])
    text.write_text("two")
    assert fixed_settings([PerplexitySettings(text=text), NeedleSettings(), QaSettings()]) != few
    with pytest.raises(FileError, match="cannot be read"):
        fixed_settings([PerplexitySettings(text=tmp_path / "none")])
