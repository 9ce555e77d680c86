"""How ``kvplan verify`` writes: the answer to stdout, a report for a ticket, and its exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvplan.cli.options import OutputFormat

if TYPE_CHECKING:
    from kvplan.core.verification import Verification
    from kvplan.planning.verify_diff import VerificationDiff

MISMATCH = 4
"""Exit code where a check does not pass."""

REPORT_ENDINGS = (".json", ".md")


class Output(NamedTuple):
    """How the answer is written; ``report`` is a file for a ticket."""

    output: OutputFormat
    explain: bool
    report: Path | None


def report_path(report: str | None) -> Path | None:
    """Where the report goes. Raises UsageError before anything runs, where it could not be written."""
    from kvplan.core.errors import UsageError

    if report is None:
        return None
    path = Path(report).expanduser()
    if path.suffix.lower() not in REPORT_ENDINGS:
        raise UsageError(f"--report {report}: write FILE{' or FILE'.join(REPORT_ENDINGS)}")
    if not path.parent.is_dir():
        raise UsageError(f"--report {report}: there is no folder {path.parent}")
    return path


def answer(found: "Verification", diff: "VerificationDiff | None", written: Output) -> None:
    """Write the answer and the report; exit with 4 where a check does not pass."""
    _write(found, diff, written)
    if written.report is not None:
        _write_report(found, written.report)
    exit_on_mismatch([found])


def _write(found: "Verification", diff: "VerificationDiff | None", written: Output) -> None:
    if written.output is OutputFormat.json:
        _write_json(found, diff)
        return
    if written.output is OutputFormat.csv:
        from kvplan.reports.verify_json import verify_csv

        print(verify_csv(found))
    else:
        _write_text(found, diff, written.output is OutputFormat.markdown)
    if written.explain:
        from kvplan.reports.verify_table import explain_lines

        print("\n" + "\n".join(explain_lines(found)))
    for note in found.notes if written.output is not OutputFormat.markdown else ():
        print(f"note: {note}", file=sys.stderr)


def _write_text(found: "Verification", diff: "VerificationDiff | None", markdown: bool) -> None:
    from kvplan.reports.to_table import stdout_console
    from kvplan.reports.verify_rows import diff_lines
    from kvplan.reports.verify_table import print_diff, print_verification, verify_markdown

    if markdown:
        print(verify_markdown(found))
        if diff is not None:
            print("\n" + "\n".join(f"* {line}" for line in diff_lines(diff)))
        return
    print_verification(found, stdout_console())
    if diff is not None:
        print()
        print_diff(diff, stdout_console())


def _write_json(found: "Verification", diff: "VerificationDiff | None") -> None:
    from kvplan.reports.to_json import render_success
    from kvplan.reports.verify_json import diff_fields, verify_fields

    fields = verify_fields(found)
    if diff is not None:
        fields["diff"] = diff_fields(diff)
    print(render_success("verify", fields, found.notes))


def _write_report(found: "Verification", path: Path) -> None:
    """The report in the format that the file's ending names. Raises FileError."""
    from kvplan.core.errors import FileError
    from kvplan.reports.to_json import render_success
    from kvplan.reports.verify_json import verify_fields
    from kvplan.reports.verify_table import verify_markdown

    markdown = path.suffix.lower() == ".md"
    text = verify_markdown(found) if markdown else render_success("verify", verify_fields(found), found.notes)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
    print(f"wrote {path}", file=sys.stderr)


def print_verifications(found: "Sequence[Verification]", markdown: bool) -> None:
    """Each verification below the command's own answer."""
    from kvplan.reports.to_table import stdout_console
    from kvplan.reports.verify_table import print_verification, verify_markdown

    for verification in found:
        print()
        if markdown:
            print(verify_markdown(verification))
        else:
            print_verification(verification, stdout_console())


def exit_on_mismatch(found: "Sequence[Verification]") -> None:
    """Exit with 4 unless all passed."""
    if not all(verification.passed for verification in found):
        sys.exit(MISMATCH)
