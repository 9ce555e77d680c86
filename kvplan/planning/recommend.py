"""``recommend``: compress or not, with what, and what else is needed. Pure: a fit and the advice in, the answer out.

The first rule of the advice that the case meets decides; its options are tried in order, and only what the engine can
switch on for this model on this device is among them. An option that is a cache is taken if everything fits with it;
one that is a measure (more memory, offload, fewer requests) is taken with the first cache that the rule named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kvplan.core.advice import Match, Rule, classic_rules, matching_rules, matrix_row
from kvplan.core.engine import Engine
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.planning.cache_options import CacheOption, Refused, cache_options, native_option, with_native_layers
from kvplan.planning.evidence import Evidence, remove_failed, with_measured_quality
from kvplan.planning.recommend_case import Wishes, build_case, prompt_and_output
from kvplan.planning.recommendation import Recommendation, Rejected
from kvplan.planning.rejections import differs_from_matrix, list_alternatives, reject, stored_names
from kvplan.planning.step_estimate import prompt_seconds
from kvplan.planning.suggest import fewer_requests, larger_share, offload
from kvplan.planning.suggest_placement import placement_changes
from kvplan.planning.suggestion import Suggestion
from kvplan.planning.weigh import Scales, known_quality, weigh
from kvplan.specs.advice import Advice

MEASURES: dict[str, tuple[Callable[[FitResult, Engine], Iterator[Suggestion]], ...]] = {
    "more_memory": (larger_share, placement_changes),
    "offload": (offload,),
    "lower_concurrency": (fewer_requests,),
}
"""Options of the advice that are no cache, and what brings them about."""

LOW_BITS = 4
"""At and below them the first and last layers stay native."""

MOST_PLACEMENTS = 3
"""Larger placements are not asked for more often than this."""

LAST_MEASURES = ("more_memory", "offload", "lower_concurrency")
"""Tried where a rule's own options do not suffice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the rules say of one placement; ``placement`` is the larger one that they ask for, if any.

    ``removed`` are options that the engine has, and that were measured to fail.
    """

    scales: Scales
    native: CacheOption
    options: tuple[CacheOption, ...]
    refused: tuple[Refused, ...]
    removed: tuple[Rejected, ...]
    decision: Match
    modifiers: tuple[Match, ...]
    chosen: CacheOption
    placement: Suggestion | None
    measures: tuple[Suggestion, ...]


def recommend(
    model: Model,
    request: FitRequest,
    engine: Engine,
    wishes: Wishes,
    advice: Advice,
    evidence: Evidence | None = None,
) -> Recommendation:
    """The advice for one request. Raises UsageError or UnsupportedError where the engine cannot be started so.

    Where the rules ask for more memory, they are asked again on the placement that has it. ``evidence`` is what was
    measured on this model: it goes before published figures, and what failed there is not advised.
    """
    if evidence is not None:
        advice = with_measured_quality(advice, evidence, model.family)
    first = last = judge(native_option(model, request, engine), engine, wishes, advice, evidence)
    placements: list[Suggestion] = []
    while last.placement is not None and last.placement.result is not None and len(placements) < MOST_PLACEMENTS:
        placements.append(last.placement)
        placed = last.placement.result.request
        size = replace(placed.size, choice=request.size.choice)
        last = judge(native_option(model, replace(placed, size=size), engine), engine, wishes, advice, evidence)
    chosen = last.chosen
    moved = tuple(replace(entry, result=chosen.result) for entry in placements[-1:])
    matrix = matrix_row(advice.matrix, first.scales.case)
    matches = (last.decision, *last.modifiers)
    prompt, _ = prompt_and_output(first.native.result, wishes)
    return Recommendation(
        case=first.scales.case,
        native=weigh(first.native, first.scales),
        chosen=weigh(chosen, last.scales),
        measures=(*moved, *last.measures),
        decision=first.decision,
        decision_there=last.decision if last is not first else None,
        modifiers=last.modifiers,
        actions=_actions(last.modifiers, chosen, last.native),
        matrix=matrix,
        classic=classic_rules(advice.classic, first.scales.case),
        differs=differs_from_matrix(matrix.row, chosen, last.native, advice),
        alternatives=tuple(
            weigh(option, last.scales) for option in list_alternatives(last.native, last.options, chosen, advice)
        ),
        rejected=(
            *last.removed,
            *reject(last.native, last.options, last.refused, chosen, matches, engine, advice),
        ),
        prefill_seconds=prompt_seconds(chosen.result, prompt),
        notes=chosen.result.notes,
    )


def judge(
    native: CacheOption, engine: Engine, wishes: Wishes, advice: Advice, evidence: Evidence | None = None
) -> Judgement:
    """What the rules say of one placement."""
    every, refused = cache_options(native, engine)
    options, removed = remove_failed(every, evidence, wishes, advice)
    eight_bit = _eight_bit(options, advice, native, wishes)
    match = known_quality(eight_bit, wishes.task, advice) if eight_bit else None
    case = build_case(native, eight_bit, wishes, advice.speed, match.row.loss_ratio if match else None)
    matches = matching_rules(advice.rules, case)
    decision = next(match for match in matches if not match.rule.modifier)
    modifiers = tuple(match for match in matches if match.rule.modifier)
    scales = Scales(advice=advice, case=case)
    chosen, placement, measures = _decide(decision.rule, native, options, engine, scales)
    return Judgement(
        scales=scales,
        native=native,
        options=options,
        refused=refused,
        removed=removed,
        decision=decision,
        modifiers=modifiers,
        chosen=chosen if placement else _refine(chosen, modifiers, options, engine),
        placement=placement,
        measures=measures,
    )


def _eight_bit(
    options: Sequence[CacheOption], advice: Advice, native: CacheOption, wishes: Wishes
) -> CacheOption | None:
    """What 8 bits are on this device: FP8 where its tensor cores take it, else INT8; None where the engine has none."""
    word = build_case(native, None, wishes, (), None).eight_bit
    named = [*_named(word, options, advice), *_named("8bit", options, advice)]
    return next(iter(named), None)


def _named(name: str, options: Sequence[CacheOption], advice: Advice) -> list[CacheOption]:
    """The caches that an option of the advice stands for and the engine has, the engine's usual word first."""
    return [option for option in options if option.format_name in stored_names(name, advice)]


def _decide(
    rule: Rule, native: CacheOption, options: Sequence[CacheOption], engine: Engine, scales: Scales
) -> tuple[CacheOption, Suggestion | None, tuple[Suggestion, ...]]:
    """The cache, a larger placement or none, and the measures needed besides; nothing else where everything fits."""
    milder = [native, *_caches("8bit", native, options, scales)[:1]]
    if native.result.missing_bytes:  # weights alone do not fit: no cache helps, only devices do
        return native, _fewest_devices([*milder, *options], engine), ()
    tried: list[CacheOption] = []
    for name in (*rule.advice, *LAST_MEASURES):
        if name == "more_memory":
            placement = _fewest_devices([*milder, *tried], engine)
            if placement is not None:
                return (tried or [native])[0], placement, ()
        elif name in MEASURES:
            first = (tried or [native])[0]
            if measures := _measures(name, first, engine):
                return first, None, measures
        for option in _caches(name, native, options, scales) if name not in MEASURES else ():
            if option.result.fits:
                return option, None, ()
            tried.append(option)
    return (tried or [native])[0], None, ()


def _fewest_devices(caches: Sequence[CacheOption], engine: Engine) -> Suggestion | None:
    """The placement over the fewest devices that holds everything with any of the caches."""
    found = [_measures("more_memory", option, engine) for option in dict.fromkeys(caches)]

    def devices(entry: Suggestion) -> int:
        """Devices that it takes."""
        return entry.result.request.num_devices if entry.result else 0

    return min((entries[0] for entries in found if entries), key=devices, default=None)


def _caches(name: str, native: CacheOption, options: Sequence[CacheOption], scales: Scales) -> list[CacheOption]:
    """What an option of the advice stands for here; 8 bits are FP8 or INT8, as the device has it."""
    if name == "native":
        return [native]
    plain = [option for option in options if not option.native_windows]
    preferred = _named(scales.case.eight_bit, plain, scales.advice) if name == "8bit" else []
    return list(dict.fromkeys([*preferred, *_named(name, plain, scales.advice)]))


def _measures(name: str, option: CacheOption, engine: Engine) -> tuple[Suggestion, ...]:
    """The changes of the first kind that makes everything fit, cheapest first."""
    for change in MEASURES[name]:
        found = tuple(entry for entry in change(option.result, engine) if entry.fits)
        if found:
            return found
    return ()


def _refine(
    chosen: CacheOption, modifiers: Sequence[Match], options: Sequence[CacheOption], engine: Engine
) -> CacheOption:
    """The same cache with the layers native that modifiers ask for, where that still fits."""
    asked = {name for match in modifiers for name in match.rule.advice}
    refined = chosen
    if "skip_windows" in asked:
        kept = (option for option in options if option.native_windows and option.word == chosen.word)
        refined = next((option for option in kept if option.result.fits), chosen)
    if "boundary_native" in asked and chosen.bits <= LOW_BITS:
        edged = with_native_layers(refined, engine)
        refined = edged if edged is not None and edged.result.fits else refined
    return refined


NATIVE_ACTIONS = ("prefix_caching",)
"""What helps without a smaller cache too; the other actions concern smaller caches alone."""


def _actions(modifiers: Sequence[Match], chosen: CacheOption, native: CacheOption) -> tuple[str, ...]:
    """Why modifiers ask for something besides the cache, a sentence each."""
    smaller = chosen.format_name != native.format_name
    lines = []
    for match in modifiers:
        asked = set(match.rule.advice) - {"skip_windows"}
        if "boundary_native" in asked and chosen.bits > LOW_BITS:
            continue
        if asked and (smaller or asked & set(NATIVE_ACTIONS)):
            lines.append(match.rule.reason)
    return tuple(lines)
