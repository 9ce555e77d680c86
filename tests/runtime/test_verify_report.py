"""A report of ``kvplan verify`` can be read back, and two reports compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kvplan.core.errors import FileError
from kvplan.core.verification import Check, DeviceFacts, Verification
from kvplan.planning.verify_diff import diff_verifications
from kvplan.reports.to_json import render_success
from kvplan.reports.verify_json import verify_csv, verify_fields
from kvplan.reports.verify_rows import check_rows, diff_lines, headline, next_lines, verdict
from kvplan.reports.verify_table import verify_markdown
from kvplan.specs.verify_report import read_verification

DEVICE = DeviceFacts(
    name="NVIDIA H200",
    kind="cuda",
    total_bytes=150_109_880_320,
    free_bytes=149_506_555_904,
    driver="570.86",
    compute_capability=(9, 0),
)


def check(what: str, predicted: int = 4096, measured: int = 4096, **others: object) -> Check:
    values = {"group": "allocation", "predicted_bytes": predicted, "measured_bytes": measured, **others}
    return Check(what=what, **values)  # type: ignore[arg-type]


def found(*checks: Check) -> Verification:
    return Verification(
        device=DEVICE,
        request={"model": "gemma-3-1b", "ctx": "8k", "mtp": ""},
        checks=checks,
        versions={"kvplan": "0.1.0", "torch": "2.11.0"},
        skipped=("model code: transformers is not installed",),
        notes=("a note",),
    )


RIGHT = check("layer 0 full_attention")
WRONG = check("layer 3 sliding_window", 8192, 4096)


def write(path: Path, verification: Verification) -> Path:
    path.write_text(render_success("verify", verify_fields(verification)), encoding="utf-8")
    return path


def test_a_report_read_back_is_the_same_verification(tmp_path: Path) -> None:
    verification = found(RIGHT, WRONG, check("free memory", 100, 90, allowed_bytes=16, detail="how", subject="rank 1"))
    verification = replace(verification, shares={"rank 1": "key and value head 1 of 2"})
    assert read_verification(write(tmp_path / "out.json", verification)) == verification


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not valid JSON"),
        ("[]", "a JSON object is expected"),
        ('{"command": "size", "result": {}}', "is not a report of kvplan verify"),
        ('{"command": "verify", "result": {"request": {}, "checks": []}}', "result.device_facts: field required"),
    ],
)
def test_another_file_is_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=problem) as raised:
        read_verification(path)
    assert "\n" not in raised.value.message


def test_a_report_for_people_is_not_read_back(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not read back") as raised:
        read_verification(tmp_path / "out.md")
    assert "out.json" in (raised.value.hint or "")


def test_bytes_that_are_no_whole_number_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "out.json", found(RIGHT))
    envelope = json.loads(path.read_text(encoding="utf-8"))
    envelope["result"]["checks"][0]["measured_bytes"] = "4096"
    path.write_text(json.dumps(envelope), encoding="utf-8")
    with pytest.raises(FileError, match=r"result\.checks\.0\.measured_bytes"):
        read_verification(path)


def test_the_verdict_says_in_words_whether_all_agree_and_names_what_does_not() -> None:
    rounded = check("free memory", 100, 90, allowed_bytes=16)
    assert verdict(found(RIGHT, RIGHT)) == "All 2 checks agree to the byte"
    assert verdict(found(RIGHT, rounded)) == "All 2 checks agree, 1 within what the device rounds"
    assert verdict(found(RIGHT, WRONG)) == (
        "1 of 2 checks differs: layer 3 sliding_window: 8,192 B predicted, 4,096 B measured (-4,096)"
    )
    assert verdict(found()) == "Nothing was checked, so nothing is proved"
    assert not found().passed


def test_the_headline_is_the_command_that_asks_again() -> None:
    assert headline(found(RIGHT)) == "kvplan verify --model gemma-3-1b --ctx 8k --mtp"


def test_layers_with_equal_figures_share_a_row_and_others_do_not() -> None:
    layers = [check(f"layer {index} full_attention", detail="a run") for index in (0, 1, 2, 5)]
    odd = check("layer 3 full_attention", 4096, 2048, detail="a run")
    rows = check_rows([*layers, odd, check("all tensors")])
    assert [row[0].strip() for row in rows] == [
        "a run", "layers 0-2, 5 full_attention", "layer 3 full_attention", "all tensors",
    ]  # fmt: skip
    assert rows[2][1:] == ("4,096", "2,048", "-2,048", "DIFFERS")


def test_a_difference_is_followed_by_what_to_do_and_agreement_by_nothing() -> None:
    assert next_lines(found(RIGHT)) == ["not run: model code: transformers is not installed"]
    assert any(line.startswith("Next: ") for line in next_lines(found(replace(WRONG, group="model code"))))


def test_a_comparison_tells_broken_mended_changed_new_and_gone_apart() -> None:
    old = found(check("a"), check("b", 1, 2), check("c", 8, 8), check("gone"), check("same"))
    new = found(check("a", 1, 2), check("b"), check("c", 9, 9), check("same"), check("new"))
    diff = diff_verifications(old, replace(new, versions={"kvplan": "0.1.0", "torch": "2.13.0"}), "old.json")
    names = [[each.what for each in checks] for checks in (diff.broken, diff.mended, diff.new, diff.gone)]
    assert names == [["a"], ["b"], ["new"], ["gone"]]
    assert [(was.what, was.measured_bytes, now.measured_bytes) for was, now in diff.changed] == [("c", 8, 9)]
    assert (diff.num_same, diff.around, diff.same) == (1, (("torch", "2.11.0", "2.13.0"),), False)
    lines = diff_lines(diff)
    assert lines[0] == "Since old.json: 1 now differ, 1 now agree, 1 changed, 1 new, 1 gone (1 check as before)"
    assert "around it: torch 2.11.0 -> 2.13.0" in lines


def test_checks_of_equal_names_are_compared_in_their_order() -> None:
    old = found(check("layer 0", 1, 1), check("layer 0", 2, 2))
    diff = diff_verifications(old, found(check("layer 0", 1, 1), check("layer 0", 2, 3)), "old.json")
    assert (diff.num_same, [each.measured_bytes for each in diff.broken]) == (1, [3])


def test_nothing_changed_is_said_so() -> None:
    diff = diff_verifications(found(RIGHT), found(RIGHT), "old.json")
    assert diff.same
    assert diff_lines(diff) == ["Since old.json: nothing changed (1 check as before)"]


def test_markdown_and_csv_carry_every_figure_and_the_versions() -> None:
    verification = found(RIGHT, WRONG)
    markdown = verify_markdown(verification)
    for words in ("**1 of 2 checks differs", "NVIDIA H200", "driver 570.86", "torch 2.11.0", "| 8,192 | 4,096 |"):
        assert words in markdown
    assert verify_csv(verification).splitlines()[2] == ",allocation,layer 3 sliding_window,8192,4096,-4096,False"
