"""What a method of ``kvplan evaluate`` must stay below, and the verdict on what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields

from kvplan.core.errors import UnknownNameError
from kvplan.core.evaluation import BASELINE, Estimate, Gate, Thresholds
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
"""The task that measures a gate, where it is not perplexity."""

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


def judge(name: str, limit: float, estimate: Estimate, needed_count: Callable[[float], int | None]) -> Gate:
    """A figure against its limit. ``needed_count`` says how many samples would decide a limit, where that is open."""
    if estimate.high < limit:
        return Gate(name=name, threshold=limit, estimate=estimate, verdict="pass")
    if estimate.low >= limit:
        return Gate(name=name, threshold=limit, estimate=estimate, verdict="fail")
    return Gate(name=name, threshold=limit, estimate=estimate, verdict="inconclusive", needed_count=needed_count(limit))


def verdict_of(gates: Sequence[Gate], thresholds: Thresholds, kinds: Sequence[str]) -> tuple[str, str]:
    """(verdict, reason): the worst of the gates, and the gates with that verdict in words.

    A needle test that is asked for and was not run leaves the verdict open, as perplexity hardly sees what retrieval
    loses; so does having measured nothing. Other limits without a figure are named.
    """
    missing = [name for name in _asked(thresholds) if name not in {gate.name for gate in gates}]
    words = {gate.verdict: [_gate_words(one) for one in gates if one.verdict == gate.verdict] for gate in gates}
    if "needle_drop_ratio" in missing or not gates:
        words.setdefault("inconclusive", [])
    verdict = next(verdict for verdict in ("fail", "inconclusive", "pass") if verdict in words)
    pieces = [*words[verdict], *_missing_words(missing)]
    if len(kinds) > 1:
        pieces.append(f"limits are the loosest of {' and '.join(kinds)}")
    return verdict, "; ".join(pieces) or "no limit was asked for"


def percent(ratio: float) -> str:
    """``0.41%``, ``12.3%``: three digits, and two decimals at most."""
    text = f"{100 * ratio:.2f}" if abs(ratio) < 0.1 else f"{100 * ratio:.1f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%".replace("-0%", "0%")


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
    if cache_format.nominal_bits < 8:
        return ("int4",)
    if cache_format.nominal_bits >= 16:
        return ()
    return ("fp8",) if "fp8" in cache_format.name else ("int8",)


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


def _asked(thresholds: Thresholds) -> list[str]:
    return [entry.name for entry in fields(Thresholds) if getattr(thresholds, entry.name) is not None]


def _missing_words(missing: Iterable[str]) -> Iterator[str]:
    for name in missing:
        yield f"{GATE_WORDS[name]} was not measured (task {_TASKS.get(name, 'perplexity')})"


def _gate_words(gate: Gate) -> str:
    """``perplexity increase 0.41% (0.39% to 0.43%), below 0.5%``."""
    write = "{:.2g}".format if gate.name == "kld_mean" else percent
    found, limit = gate.estimate, f"{gate.threshold:g}" if gate.name == "kld_mean" else percent(gate.threshold)
    figure = f"{GATE_WORDS[gate.name]} {write(found.value)} ({write(found.low)} to {write(found.high)})"
    if gate.verdict == "pass":
        return f"{figure}, below {limit}"
    if gate.verdict == "fail":
        return f"{figure}, not below {limit}"
    needed = gate.needed_count
    more = f"about {needed:,} samples would decide, {found.count:,} were taken" if needed else "too near to decide"
    return f"{figure} does not clear {limit}: {more}"
