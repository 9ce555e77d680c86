"""What ``kvplan evaluate`` found, as plain text: what fails and what to do, a row for each method, what comes next."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from kvplan.core.evaluation import Estimate, Evaluation, Gate, MethodReport
from kvplan.planning.quality_gates import GATE_WORDS, TOO_NEAR, figure, method_kinds, percent, task_of

VERDICT_WORDS = {"pass": "pass", "fail": "FAIL", "inconclusive": "inconclusive"}
NARROW_VERDICTS = {**VERDICT_WORDS, "inconclusive": "incon-\nclusive"}

METHOD = "method"
LEGEND = {
    "memory": "memory of the stored cache beside the uncompressed one's",
    "PPL": "increase of the perplexity",
    "KLD": "mean KL divergence of the next token from the uncompressed cache's, in nats",
    "top-1": "tokens whose likeliest successor stays the same",
    "needle": "needles found",
    "qa": "questions answered rightly",
    "time": "time of a decoded token beside the uncompressed cache's, in this reference implementation",
}
"""The columns, each shown where something was measured, and what they mean."""

_METRICS: dict[str, Callable[[MethodReport], Estimate | None]] = {
    "PPL": lambda report: report.perplexity_increase_ratio,
    "KLD": lambda report: report.kld_mean,
    "top-1": lambda report: report.top1_agreement_ratio,
    "needle": lambda report: report.needle_recall_ratio,
    "qa": lambda report: report.accuracy_ratio,
    "time": lambda report: report.latency_ratio,
}
_BASELINE = {"PPL": "0%", "KLD": "0", "top-1": "100%", "time": "1.00x"}
"""What the baseline is against itself."""

_BREAK = re.compile(r"(?<=[:,+/_])")


def as_asked(found: Evaluation, words: Mapping[str, str]) -> Evaluation:
    """The same under the names that the user gave (``words`` by method), for people: ``int8``, ``snapkv:0.3``."""
    named = (replace(report, method=words.get(report.method, report.method)) for report in found.methods)
    return replace(found, methods=tuple(named))


def evaluate_verdict(found: Evaluation) -> str:
    """The whole run in a sentence: ``2 of 4 pass (int8; fp8), 1 fails, 1 is inconclusive``."""
    if not found.methods:
        return "Nothing was compared with the uncompressed cache"
    names = {word: [report.method for report in found.methods if report.verdict == word] for word in VERDICT_WORDS}
    total, passed = len(found.methods), names["pass"]
    if total == 1:
        words = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}
        return f"{found.methods[0].method} {words[found.methods[0].verdict]}"
    if len(passed) == total:
        return f"All {total} methods pass"
    verb, whose = "passes" if len(passed) == 1 else "pass", f" ({'; '.join(passed)})" if passed else ""
    parts = [f"{len(passed) or 'None'} of {total} {verb}{whose}"]
    if failed := len(names["fail"]):
        parts.append(f"{failed} {'fails' if failed == 1 else 'fail'}")
    if undecided := len(names["inconclusive"]):
        parts.append(f"{undecided} {'is' if undecided == 1 else 'are'} inconclusive")
    return ", ".join(parts)


def evaluate_headline(found: Evaluation) -> str:
    """Model, device and what was asked, in a line."""
    settings = [f"{name} {value}" for name, value in found.settings.items() if value not in (None, "", ())]
    return " · ".join([found.model, found.device, *settings])


def versions_line(found: Evaluation) -> str:
    """The libraries that ran."""
    return ", ".join(f"{name} {version}" for name, version in found.versions.items())


def measured_columns(found: Evaluation) -> list[str]:
    """The columns of which any method has a figure."""
    reports = (found.baseline, *found.methods)
    memory = any(report.memory_ratio is not None for report in reports)
    return ["memory"] * memory + [name for name, pick in _METRICS.items() if any(map(pick, reports))]


def evaluate_rows(found: Evaluation, columns: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """The baseline's row, then each method's: (figure, its 95 % interval) for each column; both may be empty."""
    yield [_baseline_cell(found.baseline, name) for name in columns]
    for report in found.methods:
        yield [_cell(report, name) for name in columns]


def _baseline_cell(report: MethodReport, column: str) -> tuple[str, str]:
    if column == "memory":
        return "1.00x", ""
    return (_BASELINE[column], "") if column in _BASELINE else _cell(report, column)


def _cell(report: MethodReport, column: str) -> tuple[str, str]:
    if column == "memory":
        return ("" if report.memory_ratio is None else f"{report.memory_ratio:.2f}x"), ""
    estimate = _METRICS[column](report)
    if estimate is None:
        return "", ""
    if column == "time":
        return f"{estimate.value:.2f}x", f"{estimate.low:.2g}–{estimate.high:.2g}"
    if column == "KLD":
        return small(estimate.value), _around(estimate, small)
    if column == "PPL":
        return _signed(estimate.value), _around(estimate, percent)
    if column == "top-1":
        return share(estimate.value), _around(estimate, percent)
    return share(estimate.value), f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}%"


def _signed(ratio: float) -> str:
    """``+0.41%``, ``-2%``, ``0%``."""
    text = percent(ratio)
    return text if text[0] in "-0" and ratio < 0.00005 else f"+{text}"


def _around(estimate: Estimate, write: Callable[[float], str]) -> str:
    """Half of the interval, ``±0.02%``."""
    return f"±{write((estimate.high - estimate.low) / 2)}"


def share(ratio: float) -> str:
    """A share of the whole: ``99.2%``, ``100%``."""
    text = f"{100 * ratio:.1f}"
    return f"{text.removesuffix('.0')}%"


def small(value: float) -> str:
    """A divergence: ``0.0012``, ``0.21``, ``4e-05``; 0 is exact."""
    if value == 0:
        return "0"
    return f"{value:.0e}" if abs(value) < 0.0005 else f"{value:.2g}"


def broken(method: str, room: int) -> str:
    """A method's name on lines of ``room`` characters, broken behind its punctuation where that is possible."""
    lines = [""]
    for piece in _BREAK.split(method):
        if lines[-1] and len(lines[-1]) + len(piece) > room:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


_REMEDIES = {
    "prune": "keep more tokens",
    "int4": "take more bits",
    "fp8": "take int8, or keep the native cache",
    "int8": "keep the native cache",
}
"""What to do about a method that fails, by the most daring of its kinds."""


def verdict_lines(found: Evaluation) -> list[str]:
    """A line for each method that fails, with what to do, then for each that is open, with what would decide it."""
    failed = [_failed_words(report) for report in found.methods if report.verdict == "fail"]
    return failed + [_open_words(report) for report in found.methods if report.verdict == "inconclusive"]


def _failed_words(report: MethodReport) -> str:
    """``int2 fails: perplexity increase 25%, limit 2%; take more bits``."""
    failed = [gate for gate in report.gates if gate.verdict == "fail"]
    worst = max(failed, key=lambda gate: gate.estimate.value / gate.threshold, default=None)
    kinds = method_kinds(report.method)
    remedy = next((words for kind, words in _REMEDIES.items() if kind in kinds), "keep the native cache")
    if worst is None:
        return f"{report.method} fails: {report.reason}"
    found, limit = figure(worst.name, worst.estimate.value), figure(worst.name, worst.threshold)
    return f"{report.method} fails: {GATE_WORDS[worst.name]} {found}, limit {limit}; {remedy}"


def _open_words(report: MethodReport) -> str:
    """``int4 is open: perplexity increase 1.8% (1.4% to 2.2%), limit 2%; --samples perplexity=640 would decide``."""
    undecided = [gate for gate in report.gates if gate.verdict == "inconclusive"]
    if not undecided:
        return f"{report.method} is open: {report.reason}"
    option = samples_option([report])
    words = f"{option} would decide" if option else TOO_NEAR
    return f"{report.method} is open: {', '.join(map(_interval_words, undecided))}; {words}"


def _interval_words(gate: Gate) -> str:
    found = gate.estimate
    value, low, high, limit = (
        figure(gate.name, number) for number in (found.value, found.low, found.high, gate.threshold)
    )
    return f"{GATE_WORDS[gate.name]} {value} ({low} to {high}), limit {limit}"


def inconclusive_warning(found: Evaluation) -> str | None:
    """What is not proved, and how many samples would decide it; None where everything is decided."""
    undecided = [report for report in found.methods if report.verdict == "inconclusive"]
    if not undecided:
        return None
    option = samples_option(undecided)
    more = f": about {option} would decide" if option else ""
    return f"inconclusive, so not shown to pass: {'; '.join(report.method for report in undecided)}{more}"


def samples_option(reports: Iterable[MethodReport]) -> str:
    """``--samples perplexity=640,needle=61``: what decides every gate that more samples can decide; else nothing."""
    needed: dict[str, int] = {}
    for gate in (gate for report in reports for gate in report.gates if gate.needed_count):
        needed[task_of(gate.name)] = max(needed.get(task_of(gate.name), 0), gate.needed_count or 0)
    return f"--samples {','.join(f'{task}={count}' for task, count in needed.items())}" if needed else ""


def next_lines(found: Evaluation) -> list[str]:
    """What to do with the answer."""
    passed = [report for report in found.methods if report.verdict == "pass" and report.memory_ratio is not None]
    lines = []
    if passed:
        best = min(passed, key=lambda report: report.memory_ratio or 0.0)
        lines.append(f"Smallest that passes: {best.method}, {best.memory_ratio:.2f}x the memory")
    lines.append("Next: add --json > quality.json, then kvplan recommend --model ... --gpu ... --evidence quality.json")
    return lines
