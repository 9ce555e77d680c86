"""From records of single samples to a report and a verdict for each method, paired with the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import ceil, exp, isfinite, log, log1p
from typing import Any

from kvplan.core.errors import EvaluationError
from kvplan.core.evaluation import BASELINE, Estimate, Evaluation, Gate, MethodReport, Record, Thresholds
from kvplan.core.frozen import dataclass
from kvplan.core.paired_statistics import (
    FEWEST_OF_A_MEDIAN,
    ZERO_EVENTS,
    Mean,
    clustered_mean,
    count_flips,
    median,
    proportion,
    quantile,
)
from kvplan.core.units import MAX_TOKENS
from kvplan.planning.quality_gates import judge, method_kinds, thresholds_for, unmeasured_words, verdict_of
from kvplan.specs.thresholds import ThresholdRules

BLOCKS_OF_ONE_TEXT = 8
"""One text alone is cut into so many consecutive samples, whose spread says nothing of other texts."""

_TOKEN_LISTS = ("nll", "kld", "same_top")

Values = Mapping[str, Any]
Samples = Mapping[str, Values]
"""What one method found in one task, by sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A figure that a gate is about; ``needed_count`` tells how many samples of the task would decide a limit."""

    estimate: Estimate
    needed_count: Callable[[float], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one task says of a method: fields of its MethodReport, and the figures that gates are about, by gate."""

    fields: Mapping[str, Any]
    judged: Mapping[str, Judged]


def evaluate_records(
    records: Iterable[Record],
    *,
    model: str,
    device: str,
    versions: Mapping[str, str],
    settings: Mapping[str, Any],
    context_tokens: int,
    rules: ThresholdRules | None = None,
    quality: str = "normal",
    notes: Sequence[str] = (),
) -> Evaluation:
    """Every method of the records against the baseline ``none``, in the order in which they appear.

    ``context_tokens`` is the longest context that was measured, which decides whether a needle test is asked for;
    ``rules`` and ``quality`` (strict, normal, relaxed) set the limits. Raises EvaluationError where samples cannot be
    paired: a method has others than the baseline, one twice, other tokens, or a loss that is no number.
    """
    found = _by_method(records)
    if BASELINE not in found:
        raise EvaluationError("nothing was measured with the uncompressed cache", f"the method {BASELINE} must be run")
    baseline = found.pop(BASELINE)
    methods = []
    for method, tasks in found.items():
        asked, beyond = (thresholds_for(method, tokens, rules, quality) for tokens in (context_tokens, MAX_TOKENS))
        methods.append(_report(method, baseline, tasks, asked, beyond))
    untested = unmeasured_words(methods)
    return Evaluation(
        model=model,
        device=device,
        versions=versions,
        settings=settings,
        baseline=_baseline_report(baseline),
        methods=tuple(methods),
        notes=(*notes, *([untested] if untested else ())),
    )


def _report(
    method: str,
    baseline: Mapping[str, Samples],
    tasks: Mapping[str, Samples],
    thresholds: Thresholds,
    beyond: Thresholds,
) -> MethodReport:
    """``beyond`` are the limits of long contexts, which ask for needles: see ``_gates``."""
    for task, samples in tasks.items():
        _check_pairs(method, task, baseline.get(task, {}), samples)
    measured = [_MEASURES[task](method, baseline[task], samples) for task, samples in tasks.items()]
    judged = {name: figure for one in measured for name, figure in one.judged.items()}
    gates = tuple(_gates(judged, thresholds, beyond))
    verdict, reason = verdict_of(gates, thresholds, method_kinds(method))
    fields = {name: value for one in measured for name, value in one.fields.items()}
    return MethodReport(method=method, thresholds=thresholds, gates=gates, verdict=verdict, reason=reason, **fields)


def _gates(judged: Mapping[str, Judged], asked: Thresholds, beyond: Thresholds) -> Iterator[Gate]:
    """Figures against the limits that are asked for.

    Needles are asked for where tokens are dropped or contexts are long. Where they are not but were looked for, too few
    of them leave nothing open, and yet what is shown to lose them does not pass.
    """
    for name, figure in judged.items():
        limit, other = getattr(asked, name), getattr(beyond, name)
        if limit is not None:
            yield judge(name, limit, figure.estimate, figure.needed_count)
        elif other is not None and (gate := judge(name, other, figure.estimate, figure.needed_count)).verdict == "fail":
            yield gate


def _baseline_report(tasks: Mapping[str, Samples]) -> MethodReport:
    """What the uncompressed cache does by itself; it is what all others are compared with, so it passes."""
    own = ("needle_recall_ratio", "needle_grid", "accuracy_ratio", "memory_ratio", "steady_bytes", "peak_bytes")
    measured = [_MEASURES[task](BASELINE, samples, samples) for task, samples in tasks.items()]
    fields = {name: value for one in measured for name, value in one.fields.items() if name in own}
    return MethodReport(method=BASELINE, verdict="pass", reason="the baseline", **fields)


def _perplexity(method: str, baseline: Samples, own: Samples) -> Measured:
    for sample, values in own.items():
        _check_tokens(method, sample, baseline[sample], values)
    deltas = [[b - a for a, b in zip(baseline[sample]["nll"], own[sample]["nll"])] for sample in own]
    divergences = [list(values["kld"]) for values in own.values()]
    change, kld = clustered_mean(_clusters(deltas)), clustered_mean(_clusters(divergences))
    same = clustered_mean(_clusters([list(values["same_top"]) for values in own.values()]))
    tokens = [value for sample in divergences for value in sample]
    agreement, increase, kld_mean = _agreement(same, len(tokens)), change.relative_change(), kld.estimate(lowest=0.0)
    return Measured(
        fields={
            "perplexity_increase_ratio": increase,
            "kld_mean": kld_mean,
            "kld_p99": quantile(tokens, 0.99),
            "kld_max": max(tokens),
            "top1_agreement_ratio": agreement,
        },
        judged={
            "perplexity_increase_ratio": Judged(
                estimate=increase, needed_count=lambda limit: _texts(change.needed_count(log1p(limit)), len(own))
            ),
            "kld_mean": Judged(estimate=kld_mean, needed_count=lambda limit: _texts(kld.needed_count(limit), len(own))),
            "top1_disagreement_ratio": Judged(
                estimate=_complement(agreement),
                needed_count=lambda limit: _texts(_needed_for_disagreement(same, limit, len(tokens)), len(own)),
            ),
        },
    )


def _needle(method: str, baseline: Samples, own: Samples) -> Measured:
    measured = _accuracy(baseline, own, "needle_recall_ratio", "needle_drop_ratio")
    cells: dict[tuple[int, float], list[int]] = {}
    for values in own.values():
        cells.setdefault((values["length_tokens"], values["depth_ratio"]), []).append(values["correct"])
    grid = {cell: sum(found) / len(found) for cell, found in sorted(cells.items())}
    return Measured(fields={**measured.fields, "needle_grid": grid}, judged=measured.judged)


def _qa(method: str, baseline: Samples, own: Samples) -> Measured:
    return _accuracy(baseline, own, "accuracy_ratio", "accuracy_drop_ratio")


def _accuracy(baseline: Samples, own: Samples, share: str, drop: str) -> Measured:
    """The share of right answers and its drop, under these names."""
    answers = [values["correct"] for values in own.values()]
    flips = count_flips([baseline[sample]["correct"] for sample in own], answers)
    fields = {share: proportion(sum(answers), len(answers)), drop: flips.drop}
    return Measured(fields=fields, judged={drop: Judged(estimate=flips.drop, needed_count=flips.needed_count)})


def _latency(method: str, baseline: Samples, own: Samples) -> Measured:
    names = {"prefill_ratio": "prefill_seconds", "latency_ratio": "decode_seconds"}
    return Measured(
        fields={field: _time_ratio(method, baseline, own, name) for field, name in names.items()}, judged={}
    )


def _time_ratio(method: str, baseline: Samples, own: Samples, name: str) -> Estimate:
    """The median ratio of a turn's time to that of the baseline's turn beside it.

    What else runs on a machine makes single turns many times slower: a mean would tell of that.
    """
    ratios = []
    for sample, values in own.items():
        beside = values.get(f"baseline_{name}", baseline[sample][name])
        ratios += [log(mine / other) for mine, other in zip(values[name], beside)]
    if len(ratios) < FEWEST_OF_A_MEDIAN:
        raise EvaluationError(
            f"{method}: times of {len(ratios)} repeats have no interval", f"repeat {FEWEST_OF_A_MEDIAN} times or more"
        )
    found = median(ratios)
    return Estimate(value=exp(found.value), low=exp(found.low), high=exp(found.high), count=found.count)


def _memory(method: str, baseline: Samples, own: Samples) -> Measured:
    """Of the longest sample."""
    longest = max(own, key=lambda sample: own[sample]["tokens"])
    steady = own[longest]["steady_bytes"]
    fields = {
        "steady_bytes": steady,
        "memory_ratio": steady / baseline[longest]["steady_bytes"],
        "peak_bytes": own[longest].get("peak_bytes"),
    }
    return Measured(fields=fields, judged={})


_MEASURES: Mapping[str, Callable[[str, Samples, Samples], Measured]] = {
    "perplexity": _perplexity,
    "needle": _needle,
    "qa": _qa,
    "latency": _latency,
    "memory": _memory,
}
"""What becomes of each task's records: (method, the baseline's samples, its own)."""


def _texts(clusters: int | None, num_texts: int) -> int | None:
    """As many texts as hold so many clusters: of one text alone each piece is a cluster; a second one is needed."""
    if clusters is None or num_texts > 1:
        return clusters
    return max(2, ceil(clusters / BLOCKS_OF_ONE_TEXT))


def _clusters(samples: list[list[float]]) -> list[list[float]]:
    """Values by sample; those of one sample alone by pieces of it."""
    if len(samples) > 1:
        return samples
    values = samples[0]
    edges = [len(values) * at // BLOCKS_OF_ONE_TEXT for at in range(BLOCKS_OF_ONE_TEXT + 1)]
    pieces = [values[start:end] for start, end in pairwise(edges) if end > start]
    if len(pieces) < 2:
        raise EvaluationError("perplexity of a single token has no interval", "score more tokens")
    return pieces


def _agreement(same: Mean, num_tokens: int) -> Estimate:
    """Where all tokens agree, or none, the interval is that of never having seen the other in so many tokens."""
    if same.value not in (0, 1):
        return same.estimate(lowest=0.0, highest=1.0)
    bound = min(1.0, ZERO_EVENTS / num_tokens)
    low, high = (1 - bound, 1.0) if same.value else (0.0, bound)
    return Estimate(value=same.value, low=low, high=high, count=same.count)


def _needed_for_disagreement(same: Mean, limit: float, num_tokens: int) -> int | None:
    if same.value == 1:
        return int(ZERO_EVENTS / limit * same.count / num_tokens) + 1
    return same.needed_count(1 - limit)


def _complement(share: Estimate) -> Estimate:
    return Estimate(value=1 - share.value, low=1 - share.high, high=1 - share.low, count=share.count)


def _by_method(records: Iterable[Record]) -> dict[str, dict[str, dict[str, Values]]]:
    """Values by method, task and sample. Raises EvaluationError for a sample that is there twice."""
    found: dict[str, dict[str, dict[str, Values]]] = {}
    for record in records:
        if record.task not in _MEASURES:
            raise EvaluationError(f"records of an unknown task {record.task!r}", f"known: {', '.join(_MEASURES)}")
        samples = found.setdefault(record.method, {}).setdefault(record.task, {})
        if record.sample in samples:
            raise EvaluationError(f"{record.method}: {record.task} has the sample {record.sample!r} twice")
        samples[record.sample] = record.values
    return found


def _check_pairs(method: str, task: str, baseline: Samples, own: Samples) -> None:
    """Raise EvaluationError where method and baseline were not asked the same."""
    if odd := sorted(own.keys() ^ baseline.keys()):
        lacking = "the baseline" if odd[0] in own else method
        raise EvaluationError(
            f"{method}: {len(odd)} samples of {task} have no partner: {lacking} lacks {odd[0]!r}",
            "a run that was cut short goes on where it stopped if it is started again",
        )


def _check_tokens(method: str, sample: str, baseline: Values, own: Values) -> None:
    """Raise EvaluationError where tokens cannot be paired, or a value is no number."""
    if len({len(values[name]) for values in (baseline, own) for name in _TOKEN_LISTS}) != 1 or not own["nll"]:
        raise EvaluationError(f"{method}: sample {sample!r} has other tokens than the baseline's")
    if not all(_finite(values[name]) for values in (baseline, own) for name in _TOKEN_LISTS):
        raise EvaluationError(f"{method}: sample {sample!r} has a loss that is no number", "its cache overflows")


def _finite(values: Iterable[float]) -> bool:
    return all(map(isfinite, values))
