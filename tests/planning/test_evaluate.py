"""Records become verdicts: pass, fail, inconclusive with the samples that would decide, and pairs that do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import exp, nan
from random import Random
from typing import Any

import pytest

from kvplan.core.errors import EvaluationError
from kvplan.core.evaluation import Estimate, Evaluation, MethodReport, Record
from kvplan.planning.evaluate import evaluate_records
from kvplan.planning.quality_gates import thresholds_for
from kvplan.specs.thresholds import ThresholdRules

LONG = 65537


def evaluated(records: Iterable[Record], context_tokens: int = 2048, **options: Any) -> Evaluation:
    return evaluate_records(
        records, model="demo", device="cpu", versions={}, settings={}, context_tokens=context_tokens, **options
    )


def only(found: Evaluation) -> MethodReport:
    (report,) = found.methods
    return report


def scored(method: str, shift: float, samples: int = 8, spread: float = 0.0, kld: float = 0.001) -> list[Record]:
    """32 tokens a sample; each loses ``shift`` nats, and the samples differ by ``spread`` around it."""
    rng = Random(3)
    records = []
    for at in range(samples):
        nll = [2 + rng.random() for _ in range(32)]
        own = shift + spread * (-1) ** at if method != "none" else 0.0
        values = {
            "nll": [value + own for value in nll],
            "kld": [0.0 if method == "none" else kld] * 32,
            "same_top": [1] * 32,
        }
        records.append(Record(task="perplexity", method=method, sample=f"text {at}", values=values))
    return records


def answered(task: str, method: str, correct: Sequence[int]) -> list[Record]:
    """Needles come at depths 0 and 1 in turn, all of 512 tokens."""
    place = {"length_tokens": 512, "num_keys": 1}
    return [
        Record(
            task=task,
            method=method,
            sample=f"{at}",
            values={"correct": value, **({**place, "depth_ratio": float(at % 2)} if task == "needle" else {})},
        )
        for at, value in enumerate(correct)
    ]


def timed(method: str, prefill: Sequence[float], decode: Sequence[float]) -> Record:
    values = {"prefill_seconds": list(prefill), "decode_seconds": list(decode)}
    return Record(task="latency", method=method, sample="1k", values=values)


def test_a_small_loss_passes_and_the_reason_has_the_figures() -> None:
    report = only(evaluated(scored("none", 0) + scored("int8", 0.001, spread=0.0005)))
    assert report.verdict == "pass"
    assert report.perplexity_increase_ratio is not None
    assert report.perplexity_increase_ratio.value == pytest.approx(exp(0.001) - 1)
    assert report.perplexity_increase_ratio.count == 8
    assert report.reason == "perplexity increase 0.1% (0.06% to 0.14%), below 0.5%"


def test_a_large_loss_fails() -> None:
    report = only(evaluated(scored("none", 0) + scored("int4", 0.1, spread=0.01)))
    assert report.verdict == "fail"
    assert "perplexity increase 10.5%" in report.reason
    assert "not below 2%" in report.reason
    assert not evaluated(scored("none", 0) + scored("int4", 0.1)).passed


def test_a_loss_that_the_samples_do_not_pin_down_is_inconclusive_and_says_how_many_would() -> None:
    """Samples lie 0.01 off 0.003, the limit is at ln 1.005: 7.849 * 0.01^2 * 8/7 / 0.0019875^2 = 227.1."""
    report = only(evaluated(scored("none", 0) + scored("int8", 0.003, spread=0.01)))
    (gate,) = report.gates
    assert (report.verdict, gate.verdict, gate.needed_count) == ("inconclusive", "inconclusive", 228)
    assert "does not clear 0.5%: about 228 samples would decide" in report.reason


def test_the_needed_samples_do_decide() -> None:
    found = only(evaluated(scored("none", 0, samples=228) + scored("int8", 0.003, samples=228, spread=0.01)))
    assert found.verdict == "pass"


def test_tokens_of_one_text_are_no_independent_samples() -> None:
    """Twelve times the tokens in as many texts leave the interval as it is."""
    few = only(evaluated(scored("none", 0) + scored("int8", 0.003, spread=0.01)))
    many = [
        replace(record, values={name: values * 12 for name, values in record.values.items()})
        for record in scored("none", 0) + scored("int8", 0.003, spread=0.01)
    ]
    same = only(evaluated(many))
    assert same.perplexity_increase_ratio is not None
    assert few.perplexity_increase_ratio is not None
    assert same.perplexity_increase_ratio.high == pytest.approx(few.perplexity_increase_ratio.high)


def test_one_text_alone_is_cut_into_eight() -> None:
    report = only(evaluated(scored("none", 0, samples=1) + scored("int8", 0.001, samples=1)))
    assert report.perplexity_increase_ratio is not None
    assert report.perplexity_increase_ratio.count == 8


def test_what_one_text_alone_leaves_open_is_decided_by_texts_not_by_its_pieces() -> None:
    """Pieces of 4 tokens that lie 0.01 off 0.003 in turn need 228 pieces, which are 29 texts of 8."""
    baseline, own = scored("none", 0, samples=1), scored("int8", 0.003, samples=1)
    shifts = [0.01 * (-1) ** piece for piece in range(8) for _ in range(4)]
    own[0].values["nll"][:] = [value + shift for value, shift in zip(own[0].values["nll"], shifts)]
    (gate,) = only(evaluated(baseline + own)).gates
    assert (gate.verdict, gate.needed_count) == ("inconclusive", 29)


def test_more_samples_than_anybody_takes_are_not_advised() -> None:
    """An increase of 0.4999 % against 0.5 %: 10,000 samples or more, each 0.01 off."""
    report = only(evaluated(scored("none", 0) + scored("int8", 0.004986, spread=0.01)))
    (gate,) = report.gates
    assert (gate.verdict, gate.needed_count) == ("inconclusive", None)
    assert "does not clear 0.5%: more than 10,000 samples would be needed" in report.reason


def test_a_limit_that_no_task_measured_is_told_once_for_all_methods() -> None:
    found = evaluated(scored("none", 0) + scored("int8", 0.001) + scored("int4", 0.001), notes=("a note",))
    assert found.notes == ("a note", "accuracy drop was not measured (task qa), so its limits were not tested")
    asked = evaluated(
        [*scored("none", 0), *scored("int8", 0), *answered("qa", "none", [1]), *answered("qa", "int8", [1])]
    )
    assert asked.notes == ()


def test_divergences_have_a_mean_a_tail_and_a_largest() -> None:
    records = scored("none", 0) + scored("int8", 0, kld=0.002)
    records[-1].values["kld"][0] = 0.5
    report = only(evaluated(records))
    assert report.kld_mean is not None
    assert report.kld_mean.value == pytest.approx((255 * 0.002 + 0.5) / 256)
    assert report.kld_mean.low >= 0
    assert (report.kld_p99, report.kld_max) == (pytest.approx(0.002), 0.5)


def test_tokens_that_all_agree_leave_a_rate_below_three_over_their_number() -> None:
    report = only(evaluated(scored("none", 0) + scored("int8", 0)))
    assert report.top1_agreement_ratio == Estimate(value=1.0, low=1 - 3 / 256, high=1.0, count=8)


def test_stricter_gates_on_the_distribution_are_judged_where_they_are_asked_for() -> None:
    rules = ThresholdRules(everywhere={"kld_mean": 0.0005, "top1_disagreement_ratio": 0.01})
    report = only(evaluated(scored("none", 0) + scored("int8", 0), rules=rules))
    verdicts = {gate.name: (gate.verdict, gate.needed_count) for gate in report.gates}
    assert verdicts["kld_mean"] == ("fail", None)
    assert verdicts["top1_disagreement_ratio"] == ("inconclusive", 10)  # 3 / 0.01 = 300 tokens, 32 in a text
    assert report.verdict == "fail"
    assert report.reason.startswith("mean KLD 0.001 (0.001 to 0.001), not below 0.0005")


def test_accuracy_is_paired_question_by_question() -> None:
    """Of 400 questions 10 are lost and 6 gained: a drop of 1 %, decided by 7.849 * 0.04 / 0.02^2 = 785 at 3 %."""
    before = [1] * 200 + [0] * 200
    after = [0] * 10 + [1] * 190 + [1] * 6 + [0] * 194
    report = only(evaluated(answered("qa", "none", before) + answered("qa", "int4", after)))
    assert report.accuracy_ratio is not None
    assert report.accuracy_drop_ratio is not None
    assert report.accuracy_ratio.value == 196 / 400
    assert report.accuracy_drop_ratio.value == pytest.approx(0.01)
    (gate,) = report.gates
    assert (gate.verdict, gate.needed_count) == ("inconclusive", 785)


def test_an_accuracy_drop_below_one_percent_cannot_be_certified_on_200_questions() -> None:
    report = only(evaluated(answered("qa", "none", [1] * 200) + answered("qa", "int8", [1] * 200)))
    assert report.verdict == "inconclusive"
    assert report.gates[0].needed_count == 301
    decided = only(evaluated(answered("qa", "none", [1] * 301) + answered("qa", "int8", [1] * 301)))
    assert decided.verdict == "pass"


def test_needles_make_a_grid_and_a_window_fails_on_the_old_ones() -> None:
    found = evaluated(answered("needle", "none", [1] * 60) + answered("needle", "window:256", [0, 1] * 30))
    assert dict(only(found).needle_grid) == {(512, 0.0): 0.0, (512, 1.0): 1.0}
    assert dict(found.baseline.needle_grid) == {(512, 0.0): 1.0, (512, 1.0): 1.0}
    assert only(found).verdict == "fail"
    assert found.baseline.verdict == "pass"
    assert found.baseline.needle_recall_ratio == Estimate(value=1.0, low=1 - 3 / 60, high=1.0, count=60)


def test_what_drops_tokens_does_not_pass_without_a_needle_test() -> None:
    """Perplexity is nearly blind to what retrieval loses."""
    report = only(evaluated(scored("none", 0) + scored("snapkv:keep=0.5", 0.001)))
    assert report.gates[0].verdict == "pass"
    assert report.verdict == "inconclusive"
    assert "needle drop was not measured (task needle)" in report.reason
    assert only(evaluated(scored("none", 0) + scored("int8", 0.001), LONG)).verdict == "inconclusive"


def test_a_format_that_is_shown_to_lose_needles_does_not_pass_though_nobody_asked_for_them() -> None:
    """Of 60 needles 12 are lost, 20 % (11.8 % to 31.8 %), where 4 bits may lose 3 %; of 15 needles 3 prove nothing."""
    texts = scored("none", 0) + scored("int4", 0.001)
    many = texts + answered("needle", "none", [1] * 60) + answered("needle", "int4", [0] * 12 + [1] * 48)
    report = only(evaluated(many))
    assert (report.verdict, report.thresholds.needle_drop_ratio) == ("fail", None)
    assert report.reason == "needle drop 20% (11.8% to 31.8%), not below 3%"
    few = texts + answered("needle", "none", [1] * 15) + answered("needle", "int4", [0] * 3 + [1] * 12)
    assert only(evaluated(few)).verdict == "pass"
    rules = ThresholdRules(kinds={"int4": {"needle_drop_ratio": None}})
    assert only(evaluated(many, rules=rules)).verdict == "pass"


def test_a_failed_gate_goes_before_one_that_is_open() -> None:
    records = scored("none", 0) + scored("h2o", 0.1)
    records += answered("needle", "none", [1] * 20) + answered("needle", "h2o", [1] * 20)
    report = only(evaluated(records))
    assert {gate.name: gate.verdict for gate in report.gates} == {
        "perplexity_increase_ratio": "fail",
        "needle_drop_ratio": "inconclusive",
    }
    assert report.verdict == "fail"
    assert "needle drop" not in report.reason


def test_nothing_but_times_proves_nothing() -> None:
    report = only(evaluated([timed("none", [1] * 6, [1] * 6), timed("int8", [1] * 6, [1] * 6)]))
    assert report.verdict == "inconclusive"
    assert report.reason.startswith("perplexity increase was not measured")


def test_times_are_ratios_to_the_turn_beside_them() -> None:
    """The machine halves its pace turn by turn; the ratio is 1.5 all along."""
    pace = [2.0**turn for turn in range(6)]
    records = [timed("none", pace, pace), timed("int8", [1.5 * seconds for seconds in pace], pace)]
    report = only(evaluated(records))
    assert report.prefill_ratio is not None
    assert report.latency_ratio is not None
    assert (report.prefill_ratio.value, report.prefill_ratio.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert (report.latency_ratio.value, report.latency_ratio.count) == (pytest.approx(1.0), 6)


def test_a_turn_that_something_else_slowed_down_moves_neither_the_ratio_nor_its_interval() -> None:
    """Of nine turns the interval leaves out the fastest and the slowest: binomial, 1 - 20 / 2^9 = 96.1 %."""
    own = [1.1, 1.2, 1.3, 1.2, 1.1, 1.3, 1.2, 1.2, 40.0]
    report = only(evaluated([timed("none", [1.0] * 9, [1.0] * 9), timed("int8", own, own)]))
    assert report.latency_ratio == Estimate(
        value=pytest.approx(1.2), low=pytest.approx(1.1), high=pytest.approx(1.3), count=9
    )


def test_times_of_a_resumed_run_are_compared_with_the_turns_they_were_taken_with() -> None:
    own = timed("int8", [3.0] * 6, [3.0] * 6)
    beside = {"baseline_prefill_seconds": [2.0] * 6, "baseline_decode_seconds": [1.0] * 6}
    records = [timed("none", [9.0] * 6, [9.0] * 6), replace(own, values={**own.values, **beside})]
    report = only(evaluated(records))
    assert report.prefill_ratio is not None
    assert report.prefill_ratio.value == pytest.approx(1.5)


@pytest.mark.parametrize("repeats", [1, 5])
def test_few_repeats_have_no_interval(repeats: int) -> None:
    with pytest.raises(EvaluationError, match=f"times of {repeats} repeats have no interval"):
        evaluated([timed("none", [1] * repeats, [1] * repeats), timed("int8", [1] * repeats, [1] * repeats)])


def test_memory_is_that_of_the_longest_sample() -> None:
    def stored(method: str, tokens: int, steady: int) -> Record:
        values = {"tokens": tokens, "steady_bytes": steady, "peak_bytes": 10 * steady}
        return Record(task="memory", method=method, sample=f"{tokens}", values=values)

    found = evaluated(
        [stored("none", 1024, 100), stored("none", 2048, 200), stored("int8", 1024, 60), stored("int8", 2048, 106)]
    )
    report = only(found)
    assert (report.memory_ratio, report.steady_bytes, report.peak_bytes) == (0.53, 106, 1060)
    assert (found.baseline.memory_ratio, found.baseline.steady_bytes) == (1.0, 200)


def test_methods_stay_in_their_order() -> None:
    records = scored("none", 0) + scored("int8", 0) + scored("fp8", 0) + scored("int4", 0)
    assert [report.method for report in evaluated(records).methods] == ["int8", "fp8", "int4"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (scored("int8", 0), "nothing was measured with the uncompressed cache"),
        (scored("none", 0) + scored("int8", 0)[:-1], "1 samples of perplexity have no partner: int8 lacks 'text 7'"),
        (scored("none", 0)[:-1] + scored("int8", 0), "no partner: the baseline lacks 'text 7'"),
        (
            scored("none", 0) + scored("int8", 0) + scored("int8", 0)[:1],
            "int8: perplexity has the sample 'text 0' twice",
        ),
        (scored("none", 0) + answered("qa", "int8", [1]), "1 samples of qa have no partner: the baseline lacks '0'"),
        ([Record(task="poetry", method="none", sample="0", values={})], "unknown task 'poetry'"),
    ],
)
def test_samples_without_a_partner_are_refused(records: list[Record], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluated(records)


@pytest.mark.parametrize(
    ("name", "values", "message"), [("nll", [1.0], "other tokens"), ("kld", [nan] * 32, "no number")]
)
def test_tokens_without_a_partner_are_refused(name: str, values: list[float], message: str) -> None:
    records = scored("none", 0) + scored("int8", 0)
    records[-1] = replace(records[-1], values={**records[-1].values, name: values})
    with pytest.raises(EvaluationError, match=f"int8: sample 'text 7' has .*{message}"):
        evaluated(records)


def test_several_kinds_get_the_loosest_limit_and_the_reason_says_so() -> None:
    both = thresholds_for("int8+snapkv:keep=0.5", 4096)
    assert both == thresholds_for("snapkv:keep=0.5", 4096)
    report = only(evaluated(scored("none", 0) + scored("int8+snapkv:keep=0.5", 0)))
    assert report.reason.endswith("limits are the loosest of int8 and prune")
