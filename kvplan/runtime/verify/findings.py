"""What one group of checks found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvplan.core.verification import Check


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Checks made, and what was not checked and why; the fields of a Verification of the same names."""

    checks: tuple[Check, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def join_findings(findings: Iterable[Findings]) -> Findings:
    """All of them, in order; the same words are not said twice."""
    found = tuple(findings)
    return Findings(
        checks=tuple(check for each in found for check in each.checks),
        skipped=tuple(dict.fromkeys(words for each in found for words in each.skipped)),
        notes=tuple(dict.fromkeys(words for each in found for words in each.notes)),
    )


def named_lines(lines: Sequence[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    """Lines with their subject; those of several subjects are said once."""
    said: dict[str, list[str]] = {}
    for subject, own in lines:
        for line in own:
            said.setdefault(line, []).append(subject)
    return tuple(f"{own[0]}: {line}" if len(own) == 1 and own[0] else line for line, own in said.items())


def layer_words(indices: Iterable[int]) -> str:
    """``layer 3`` or ``layers 0-2, 5``: ascending indices as people write them."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1] = [runs[-1][0], index]
        else:
            runs.append([index])
    words = ", ".join("-".join(map(str, run)) for run in runs)
    return f"layer {words}" if words.isdecimal() else f"layers {words}"
