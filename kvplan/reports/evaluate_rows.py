"""What ``kvplan evaluate`` found, as plain text: a row for each method, the reasons below, what to do next."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from kvplan.core.evaluation import Estimate, Evaluation, Gate, MethodReport
from kvplan.planning.quality_gates import GATE_WORDS

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


def evaluate_verdict(found: Evaluation) -> str:
    """The whole run in a sentence: ``3 of 5 pass, 1 fails (int2), 1 is inconclusive (int4)``."""
    if not found.methods:
        return "Nothing was compared with the uncompressed cache"
    names = {word: [report.method for report in found.methods if report.verdict == word] for word in VERDICT_WORDS}
    total, passed = len(found.methods), len(names["pass"])
    if passed == total:
        return "The one method passes" if total == 1 else f"All {total} methods pass"
    parts = [f"{passed or 'None'} of {total} {'passes' if passed == 1 else 'pass'}"] if total > 1 else []
    if names["fail"]:
        parts.append(f"{len(names['fail'])} {_verb('fails', names['fail'])} ({'; '.join(names['fail'])})")
    if names["inconclusive"]:
        are = _verb("is", names["inconclusive"])
        parts.append(f"{len(names['inconclusive'])} {are} inconclusive ({'; '.join(names['inconclusive'])})")
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
        return f"{estimate.value:.2f}x", _around(estimate, lambda value: f"{value:.2f}" if value < 9.995 else "10+")
    if column == "KLD":
        return small(estimate.value), _around(estimate, small)
    if column == "PPL":
        return f"{percent(estimate.value, signed=True)}", _around(estimate, percent)
    return share(estimate.value), f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}%"


def _around(estimate: Estimate, write: Callable[[float], str]) -> str:
    """Half of the interval, ``±0.02%``."""
    return f"±{write((estimate.high - estimate.low) / 2)}"


def percent(ratio: float, signed: bool = False) -> str:
    """``+0.41%``, ``12.3%``, ``1,250%``: about three digits."""
    value = 100 * ratio
    size = abs(value)
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    text = f"{value:{'+' if signed else ''},.{digits}f}%"
    return text.replace("+0.00%", "0.00%").replace("-0.00%", "0.00%")


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


def reason_lines(found: Evaluation) -> list[str]:
    """Why each method got its verdict."""
    return [f"{report.method}: {report.verdict}: {report.reason or gate_reason(report)}" for report in found.methods]


def gate_reason(report: MethodReport) -> str:
    """The gates in words, where the report itself says nothing."""
    return "; ".join(map(gate_words, report.gates)) or "no gate was asked for"


def gate_words(gate: Gate) -> str:
    """``perplexity increase 0.41% (0.39% to 0.43%) against < 0.5%``."""
    name, estimate = GATE_WORDS.get(gate.name, gate.name), gate.estimate
    write = small if gate.name == "kld_mean" else percent
    limit = f"{gate.threshold:g}" if gate.name == "kld_mean" else f"{100 * gate.threshold:g}%"
    return f"{name} {write(estimate.value)} ({write(estimate.low)} to {write(estimate.high)}) against < {limit}"


def inconclusive_warning(found: Evaluation) -> str | None:
    """What is not proved, and how many samples would decide it; None where everything is decided."""
    undecided = [report for report in found.methods if report.verdict == "inconclusive"]
    if not undecided:
        return None
    names = ", ".join(report.method for report in undecided)
    needed = needed_samples(undecided)
    more = f"; about {needed:,} samples would decide (--samples {needed})" if needed else ""
    return f"inconclusive, so not shown to pass: {names}{more}"


def needed_samples(reports: Sequence[MethodReport]) -> int | None:
    """Samples that decide every gate which more samples can decide; None where there is none."""
    counts = [gate.needed_count for report in reports for gate in report.gates if gate.needed_count]
    return max(counts, default=None)


def next_lines(found: Evaluation) -> list[str]:
    """What to do with the answer."""
    passed = [report for report in found.methods if report.verdict == "pass" and report.memory_ratio is not None]
    lines = []
    if passed:
        best = min(passed, key=lambda report: report.memory_ratio or 0.0)
        lines.append(f"Smallest that passes: {best.method}, {best.memory_ratio:.2f}x the memory")
    elif any(report.verdict == "fail" for report in found.methods):
        lines.append("Nothing here is shown to pass: more bits, or a larger share of the tokens")
    lines.append("Next: add --json > quality.json, then kvplan recommend --model ... --gpu ... --evidence quality.json")
    return lines


def _verb(singular: str, names: Sequence[str]) -> str:
    return singular if len(names) == 1 else {"fails": "fail", "is": "are"}[singular]
