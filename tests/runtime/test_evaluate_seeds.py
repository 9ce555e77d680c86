"""How much each metric varies over seeds, and that a seed which was not looked at lies where the stored ones do.

``tests/vectors/evaluate_seeds.json`` holds the figures of five seeds, written by ``tests/parity/evaluate_seeds.py``:
four texts and ten needles each, so that one needle is 0.1.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from kvplan.core.evaluation import MethodReport
from kvplan.planning.evaluate import evaluate_records
from kvplan.runtime.demo.load import demo_folder
from kvplan.runtime.evaluate.harness import load_model
from kvplan.runtime.evaluate.methods import Method, parse_method
from kvplan.runtime.evaluate.perplexity import PerplexitySettings, perplexity

STORED = json.loads((Path(__file__).parents[1] / "vectors" / "evaluate_seeds.json").read_text(encoding="utf-8"))
INT8, INT4, INT2 = (parse_method(words).text for words in ("int8", "int4", "int2"))
WINDOW, SNAPKV = (parse_method(w).text for w in ("window:256,sinks=4", "snapkv:keep=0.3,window=16,kernel=13"))
FRESH_SEED = 900


def values(method: str, metric: str) -> list[float]:
    """By seed."""
    found: list[float] = STORED["values"][method][metric]
    assert len(found) == len(STORED["seeds"]) == 5
    return found


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [(INT8, 5e-7, 1.5e-5), (INT4, 5e-5, 1e-3), (INT2, 1e-2, 0.15), (WINDOW, 5e-3, 0.2), (SNAPKV, 0.03, 0.3)],
)
def test_divergence_varies_up_to_17_times_over_seeds_and_methods_lie_further_apart(
    method: str, low: float, high: float
) -> None:
    found = values(method, "kld_mean")
    assert low < min(found) < max(found) < high
    assert max(found) / min(found) < 18


def test_with_every_seed_fewer_bits_diverge_at_least_20_times_more() -> None:
    ladder = zip(*(values(method, "kld_mean") for method in (INT8, INT4, INT2)))
    assert all(20 * int8 < int4 < int2 / 20 for int8, int4, int2 in ladder)


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [(INT8, -1e-4, 6e-4), (INT4, -3e-3, 1e-3), (INT2, 0.02, 0.11), (WINDOW, 0.01, 0.16), (SNAPKV, 0.06, 0.26)],
)
def test_perplexity_hardly_moves_at_8_and_4_bits_and_by_per_cents_at_2_bits_and_where_tokens_go(
    method: str, low: float, high: float
) -> None:
    found = values(method, "perplexity_increase_ratio")
    assert low < min(found) < max(found) < high


def test_needles_are_all_found_at_8_and_4_bits_and_get_lost_at_2_bits_and_outside_a_window() -> None:
    recall = {method: values(method, "needle_recall_ratio") for method in ("none", INT8, INT4, INT2, WINDOW, SNAPKV)}
    assert recall["none"] == recall[INT8] == recall[INT4] == [1.0] * 5
    assert min(recall[SNAPKV]) >= 0.9
    assert (min(recall[INT2]), max(recall[INT2])) == (0.3, 0.8)
    assert (min(recall[WINDOW]), max(recall[WINDOW])) == (0.3, 0.4)


@pytest.fixture(scope="module")
def fresh() -> dict[str, MethodReport]:
    """The divergences measured with a seed that the file does not have; needles are in ``test_evaluate_needle``."""
    handle = load_model(str(demo_folder()), device="cpu")
    methods = (Method(), *(parse_method(text) for text in STORED["values"] if text != "none"))
    pieces = perplexity(handle, PerplexitySettings(**STORED["texts"], seed=FRESH_SEED))
    records = [record for piece in pieces for record in piece.measure(methods)]
    found = evaluate_records(records, model="", device="cpu", versions={}, settings={}, context_tokens=512)
    return {report.method: report for report in found.methods}


@pytest.mark.parametrize("method", [INT8, INT4, INT2, WINDOW, SNAPKV])
def test_a_fresh_seed_lies_within_three_times_the_range_of_the_stored_ones(
    method: str, fresh: dict[str, MethodReport]
) -> None:
    report, stored = fresh[method], values(method, "kld_mean")
    assert report.kld_mean is not None
    assert min(stored) / 3 <= report.kld_mean.value <= max(stored) * 3


def test_a_fresh_seed_has_the_methods_as_far_apart(fresh: dict[str, MethodReport]) -> None:
    int8, int4, int2 = (fresh[method].kld_mean.value for method in (INT8, INT4, INT2))  # type: ignore[union-attr]
    assert 20 * int8 < int4 < int2 / 20
