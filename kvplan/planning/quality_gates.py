"""What a method of ``kvplan evaluate`` must stay below, and the verdict on what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from fractions import Fraction

from kvplan.core.errors import UnknownNameError
from kvplan.core.evaluation import BASELINE, Estimate, Gate, MethodReport, Thresholds
from kvplan.core.format import CacheFormat
from kvplan.core.policy import Place, RetentionPolicy, describe_policy
from kvplan.core.quality import Gate as Acceptance
from kvplan.core.quality import gate_for
from kvplan.core.units import MAX_TOKENS
from kvplan.formats import get_format, parse_kv_format
from kvplan.policies import get_policy
from kvplan.specs.advice import load_advice
from kvplan.specs.thresholds import GATE_KINDS, ThresholdRules, change

GATE_WORDS = {
    "perplexity_increase_ratio": "perplexity increase",
    "accuracy_drop_ratio": "accuracy drop",
    "needle_drop_ratio": "needle drop",
    "kld_mean": "mean KLD",
    "top1_disagreement_ratio": "top-1 disagreement",
}
"""The gates in words."""

_TASKS = {"accuracy_drop_ratio": "qa", "needle_drop_ratio": "needle"}

MOST_ADVISED = 10_000
"""Samples: what would need more lies too near to its limit to be decided."""

_NATIVE = "bf16"
"""Stands for ``auto``: which 16 bits the model has is all the same to a gate."""

_PRESS = "press:"
"""What the methods of kvpress are named by (``kvplan.runtime.evaluate.press``): all drop tokens."""


def method_kinds(method: str) -> tuple[str, ...]:
    """The gates that a method's parts come under, each once: ``("int8", "prune")`` for ``int8+h2o:keep=0.5``.

    ``int4`` stands for all formats below 8 bits, ``fp8`` and ``int8`` for those of 8, ``prune`` for every policy that
    drops tokens, those of kvpress among them. What compresses nothing is held to ``int8``; the baseline has no kind.
    Raises UnknownNameError or UsageError.
    """
    if method.startswith(_PRESS):
        return ("prune",)
    found = {kind for word in method.split("+") for kind in _word_kinds(word)}
    if not found and method != BASELINE:
        return ("int8",)
    return tuple(kind for kind in GATE_KINDS if kind in found)


def canonical_method(method: str) -> str:
    """The method with the names of formats and policies instead of aliases, and every option written out.

    Raises as ``method_kinds``.
    """
    return method if method.startswith(_PRESS) else "+".join(map(_canonical_word, method.split("+")))


def thresholds_for(
    method: str,
    context_tokens: int,
    rules: ThresholdRules | None = None,
    quality: str = "normal",
    gates: Sequence[Acceptance] | None = None,
) -> Thresholds:
    """What a method must stay below: the acceptance gates of its kinds, changed by ``rules``.

    What has several kinds must stay below the loosest limit of each figure: a cache of 8 bits that also drops half of
    the tokens is no better than dropping them. A needle limit is set for what drops tokens, and for everything beyond
    65,536 tokens of context. ``gates`` are those of the advice files. Raises as ``method_kinds``.
    """
    rules = rules or ThresholdRules()
    gates = load_advice().gates if gates is None else gates
    kinds = method_kinds(method)
    limits = _loosest([rules.of_kind(kind, _accepted(gates, kind, quality, context_tokens)) for kind in kinds])
    own = canonical_method(method)
    for name, changes in rules.methods.items():
        if canonical_method(name) == own:
            limits = change(limits, changes)
    return limits


def task_of(gate: str) -> str:
    """The task that measures a gate, of which ``needed_count`` counts the samples."""
    return _TASKS.get(gate, "perplexity")


def format_kind(bits: Fraction, name: str) -> str:
    """``fp8``, ``int8`` or ``int4`` (all below 8 bits): what a compressed format of so many nominal bits is held to."""
    if bits < 8:
        return "int4"
    return "fp8" if "fp8" in name else "int8"


def judge(name: str, limit: float, estimate: Estimate, needed_count: Callable[[float], int | None]) -> Gate:
    """A figure against its limit. ``needed_count`` says how many samples would decide a limit, where that is open.

    None stands for more than ``MOST_ADVISED``.
    """
    if estimate.high < limit:
        return Gate(name=name, threshold=limit, estimate=estimate, verdict="pass")
    if estimate.low >= limit:
        return Gate(name=name, threshold=limit, estimate=estimate, verdict="fail")
    needed = needed_count(limit)
    advised = needed if needed and needed <= MOST_ADVISED else None
    return Gate(name=name, threshold=limit, estimate=estimate, verdict="inconclusive", needed_count=advised)


def verdict_of(gates: Sequence[Gate], thresholds: Thresholds, kinds: Sequence[str]) -> tuple[str, str]:
    """(verdict, reason): the worst of the gates, and the gates with that verdict in words.

    A needle test that is asked for and was not run leaves the verdict open, as perplexity hardly sees what retrieval
    loses; so does having measured nothing. Other limits without a figure decide nothing: ``unmeasured_words`` has them.
    """
    missing = missing_gates(gates, thresholds)
    decides = missing if not gates else [name for name in missing if name == "needle_drop_ratio"]
    words = {gate.verdict: [gate_words(one) for one in gates if one.verdict == gate.verdict] for gate in gates}
    if decides or not gates:
        words.setdefault("inconclusive", []).extend(map(_missing_words, decides))
    verdict = next(verdict for verdict in ("fail", "inconclusive", "pass") if verdict in words)
    pieces = words[verdict]
    if len(kinds) > 1:
        pieces = [*pieces, f"limits are the loosest of {' and '.join(kinds)}"]
    return verdict, "; ".join(pieces) or "no limit was asked for"


def missing_gates(gates: Iterable[Gate], thresholds: Thresholds) -> list[str]:
    """The limits of which no figure was measured."""
    judged = {gate.name for gate in gates}
    asked = (entry.name for entry in fields(Thresholds) if getattr(thresholds, entry.name) is not None)
    return [name for name in asked if name not in judged]


def unmeasured_words(reports: Iterable[MethodReport]) -> str | None:
    """The limits of methods that were left untested, for the whole run; None where there are none."""
    missing = dict.fromkeys(name for report in reports for name in missing_gates(report.gates, report.thresholds))
    if not missing:
        return None
    return f"{', '.join(map(_missing_words, missing))}, so its limits were not tested"


def percent(ratio: float) -> str:
    """``0.41%``, ``12.3%``, ``1,250%``: about three digits, and two decimals at most."""
    size = abs(ratio)
    text = f"{100 * ratio:,.{2 if size < 0.09995 else 1 if size < 0.9995 else 0}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{'0' if text == '-0' else text}%"


def figure(gate: str, value: float) -> str:
    """A gate's figure or limit: a divergence in nats with two digits, everything else in per cent."""
    return f"{value:.2g}" if gate == "kld_mean" else percent(value)


def gate_words(gate: Gate) -> str:
    """``perplexity increase 0.41% (0.39% to 0.43%), below 0.5%``."""
    found, limit = gate.estimate, figure(gate.name, gate.threshold)
    value, low, high = (figure(gate.name, number) for number in (found.value, found.low, found.high))
    words = f"{GATE_WORDS.get(gate.name, gate.name)} {value} ({low} to {high})"
    if gate.verdict == "pass":
        return f"{words}, below {limit}"
    if gate.verdict == "fail":
        return f"{words}, not below {limit}"
    needed = gate.needed_count
    return f"{words} does not clear {limit}: {f'about {needed:,} samples would decide' if needed else TOO_NEAR}"


TOO_NEAR = f"more than {MOST_ADVISED:,} samples would be needed"
"""Said of what is open and has no ``needed_count``."""


def _word_kinds(word: str) -> Iterator[str]:
    policy = _policy(word)
    if policy is None:
        pair = parse_kv_format(word, _NATIVE)
        yield from (*_format_kinds(pair.key), *_format_kinds(pair.value))
    elif describe_policy(policy) != "none":
        tiers = policy.tiers(MAX_TOKENS, Place(0, 1))
        for tier in tiers:
            yield from _format_kinds(get_format(tier.cache_format or _NATIVE))
        if sum(tier.tokens for tier in tiers) < MAX_TOKENS or getattr(policy, "threshold", 0) > 0:
            yield "prune"


def _format_kinds(cache_format: CacheFormat) -> tuple[str, ...]:
    bits = cache_format.nominal_bits
    return (format_kind(bits, cache_format.name),) if bits < 16 else ()


def _policy(word: str) -> RetentionPolicy | None:
    """The policy of a word; None where it names none, and so must be a format."""
    try:
        return get_policy(word)
    except UnknownNameError:
        return None


def _canonical_word(word: str) -> str:
    policy = _policy(word)
    return parse_kv_format(word, _NATIVE).name if policy is None else describe_policy(policy)


def _accepted(gates: Sequence[Acceptance], kind: str, quality: str, context_tokens: int) -> Thresholds:
    gate = gate_for(gates, kind, quality, context_tokens)
    return Thresholds(
        perplexity_increase_ratio=gate.perplexity_increase_ratio,
        accuracy_drop_ratio=gate.accuracy_drop_ratio,
        needle_drop_ratio=gate.needle_drop_ratio,
    )


def _loosest(limits: Sequence[Thresholds]) -> Thresholds:
    """The largest of each limit that any of them has."""
    asked = {entry.name: [getattr(one, entry.name) for one in limits] for entry in fields(Thresholds)}
    return Thresholds(**{name: max((one for one in found if one), default=None) for name, found in asked.items()})


def _missing_words(name: str) -> str:
    return f"{GATE_WORDS[name]} was not measured (task {task_of(name)})"
