"""What ``kvplan verify`` found, as plain text: the verdict, checks that say the same in one row, what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from kvplan.core.units import format_bytes
from kvplan.core.verification import GROUPS, Check, DeviceFacts, Verification
from kvplan.planning.verify_diff import VerificationDiff

CHECK_HEADER = ("check", "predicted", "measured", "difference", "")
SUBJECT_HEADER = ("checked", "checks", "predicted", "differ")
MARKS = {True: "ok", False: "DIFFERS"}

_LAYER = re.compile(r"layer (\d+) (.+)")
_SHOWN_FAILURES = 12


def verdict(found: Verification) -> str:
    """Whether everything agrees, in a sentence; the first figure that does not is named."""
    checks = found.checks
    failed = [check for check in checks if not check.passed]
    if not checks:
        return "Nothing was checked, so nothing is proved"
    if failed:
        agree = f"{len(failed):,} of {_count(len(checks))} {'differs' if len(failed) == 1 else 'differ'}"
        return f"{agree}: {difference_words(failed[0])}"
    rounded = sum(bool(check.difference_bytes) for check in checks)
    alike = "The one check agrees" if len(checks) == 1 else f"All {_count(len(checks))} agree"
    return f"{alike}, {rounded:,} within what the device rounds" if rounded else f"{alike} to the byte"


def difference_words(check: Check) -> str:
    """``layer 3 sliding_window: 8,192 B predicted, 4,096 B measured (-4,096)``."""
    figures = f"{check.predicted_bytes:,} B predicted, {check.measured_bytes:,} B measured"
    return f"{name_of(check)}: {figures} ({check.difference_bytes:+,})"


def name_of(check: Check) -> str:
    """The check's name, with whose figure it is."""
    return f"{check.subject}: {check.what}" if check.subject else check.what


def headline(found: Verification) -> str:
    """The command line that asks for it again."""
    words = (piece for name, value in found.request.items() for piece in (f"--{name}", value) if piece)
    return shlex.join(("kvplan", "verify", *words))


def device_line(found: Verification) -> str:
    """Where the checks ran, and on which versions."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return f"on {device_words(found.device)}" + (f"; {versions}" if versions else "")


def device_words(device: DeviceFacts) -> str:
    """Name, memory and driver."""
    memory = f"{format_bytes(device.free_bytes)} of {format_bytes(device.total_bytes)} free"
    driver = f", driver {device.driver}" if device.driver else ""
    return f"{device.name} ({device.kind}, {memory}{driver})"


def subjects(found: Verification) -> tuple[str, ...]:
    """Whose figures there are, in order."""
    return tuple(dict.fromkeys(check.subject for check in found.checks))


def subject_rows(found: Verification) -> list[tuple[str, ...]]:
    """One row for each subject, with what it holds: its checks, its largest predicted figure, how many differ."""
    rows: list[tuple[str, ...]] = []
    for subject in subjects(found):
        own = [check for check in found.checks if check.subject == subject]
        failed = sum(not check.passed for check in own)
        largest = max(check.predicted_bytes for check in own)
        words = ": ".join(filter(None, (subject, found.shares.get(subject)))) or "all"
        rows.append((words, f"{len(own):,}", format_bytes(largest), f"{failed:,}" if failed else "none"))
    return rows


def grouped_rows(checks: Sequence[Check]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Each group's title and its rows under ``CHECK_HEADER``, in the order in which the groups ran."""
    for group in dict.fromkeys(check.group for check in checks):
        title = f"{group}: {GROUPS[group]}" if group in GROUPS else group
        yield title, check_rows([check for check in checks if check.group == group])


def check_rows(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    """Rows under ``CHECK_HEADER``: layers of one kind with equal figures in one; those measured alike below how.

    The bytes are those of one layer.
    """
    rows: list[tuple[str, ...]] = []
    for (subject, detail), run in groupby(checks, key=lambda check: (check.subject, check.detail)):
        together = list(run)
        if detail and len(together) > 1:
            rows.append((f"{subject}: {detail}" if subject else detail, "", "", "", ""))
        indent = "  " if detail and len(together) > 1 else ""
        rows += [_cells(alike, indent) for alike in _alike(together)]
    return rows


def _alike(checks: Sequence[Check]) -> list[list[Check]]:
    """Layers of one kind with equal figures together; everything else alone."""
    found: dict[object, list[Check]] = {}
    for position, check in enumerate(checks):
        layer = _LAYER.fullmatch(check.what)
        figures = (check.predicted_bytes, check.measured_bytes, check.passed)
        found.setdefault((layer[2], figures) if layer else position, []).append(check)
    return list(found.values())


def _cells(alike: Sequence[Check], indent: str) -> tuple[str, ...]:
    check = alike[0]
    difference = f"{check.difference_bytes:+,}" if check.difference_bytes else "0"
    figures = (f"{check.predicted_bytes:,}", f"{check.measured_bytes:,}", difference)
    return (indent + _row_name(alike), *figures, MARKS[check.passed])


def failed_rows(found: Verification) -> list[tuple[str, ...]]:
    """What differs, the first few rows."""
    return check_rows([check for check in found.checks if not check.passed])[:_SHOWN_FAILURES]


def next_lines(found: Verification) -> list[str]:
    """What did not run, and what to do next."""
    lines = [f"not run: {reason}" for reason in found.skipped]
    failed = [check for check in found.checks if not check.passed]
    if not failed:
        return lines
    groups = {check.group for check in failed}
    if "model code" in groups:
        lines.append(
            "Next: the spec and the model's own code disagree: compare kvplan models show with its config.json"
        )
    elif "engine" in groups:
        lines.append("Next: the engine decides: state its version (--engine NAME@VERSION) and its own flags")
    else:
        lines.append("Next: attach the report to a ticket: --report verify.json")
    return lines


def diff_lines(diff: VerificationDiff) -> list[str]:
    """What changed since another report."""
    lines = [diff_verdict(diff)]
    lines += [f"now differs: {difference_words(check)}" for check in diff.broken]
    lines += [f"now agrees: {name_of(check)}" for check in diff.mended]
    for old, new in diff.changed:
        predicted = f"predicted {old.predicted_bytes:,} -> {new.predicted_bytes:,}"
        lines.append(f"changed: {name_of(new)}: {predicted}, measured {old.measured_bytes:,} -> {new.measured_bytes:,}")
    lines += [f"new: {name_of(check)}" for check in diff.new]
    lines += [f"gone: {name_of(check)}" for check in diff.gone]
    return lines + [f"around it: {name} {old} -> {new}" for name, old, new in diff.around]


def diff_verdict(diff: VerificationDiff) -> str:
    """The comparison in a line."""
    counts: Mapping[str, Sequence[object]] = {
        "now differ": diff.broken,
        "now agree": diff.mended,
        "changed": diff.changed,
        "new": diff.new,
        "gone": diff.gone,
    }
    found = ", ".join(f"{len(checks):,} {word}" for word, checks in counts.items() if checks)
    return f"Since {diff.source}: {found or 'nothing changed'} ({_count(diff.num_same)} as before)"


def _row_name(same: Sequence[Check]) -> str:
    first = name_of(same[0])
    if len(same) == 1:
        return first
    layers = [int(found[1]) for check in same if (found := _LAYER.fullmatch(check.what))]
    kind = same[0].what.split(" ", 2)[2]
    listed = f"layers {_ranges(layers)} {kind}"
    return f"{same[0].subject}: {listed}" if same[0].subject else listed


def _ranges(numbers: Sequence[int]) -> str:
    """``0-4, 6-10`` for the numbers; how many, where the ranges are many."""
    ranges = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        ranges.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    if len(ranges) > 4:
        return f"{', '.join(ranges[:3])}, ... ({len(numbers)})"
    return ", ".join(ranges)


def _count(number: int) -> str:
    return f"{number:,} check" if number == 1 else f"{number:,} checks"
