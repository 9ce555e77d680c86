"""Statistics against printed tables, published examples and hand arithmetic."""

from __future__ import annotations

import statistics
from math import exp, log, sqrt
from random import Random

import pytest

from kvplan.core.paired_statistics import (
    Flips,
    Mean,
    clustered_mean,
    count_flips,
    median,
    normal_quantile,
    proportion,
    quantile,
    student_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "printed"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (7, 2.365), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_students_quantile_is_that_of_the_printed_table(degrees: int, printed: float) -> None:
    """Two-sided 95 %, as in every textbook's table."""
    assert student_quantile(0.975, degrees) == pytest.approx(printed, abs=5e-4)


def test_students_quantile_at_99_percent_and_on_the_other_side() -> None:
    assert student_quantile(0.995, 9) == pytest.approx(3.250, abs=5e-4)
    assert student_quantile(0.025, 9) == -student_quantile(0.975, 9)


def test_students_quantile_comes_down_to_the_normal_one() -> None:
    found = [student_quantile(0.975, degrees) for degrees in (10, 100, 1000, 1001, 100_000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert found[2] == pytest.approx(found[3], rel=2e-3)


def test_quantiles_are_those_of_the_standard_library() -> None:
    rng = Random(7)
    values = [rng.gauss(0, 1) for _ in range(501)]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert [quantile(values, percent / 100) for percent in range(1, 100)] == pytest.approx(cuts)
    assert (quantile([3.0], 0.99), quantile([1.0, 2.0], 1.0)) == (3.0, 2.0)


def test_equal_clusters_give_the_mean_of_their_means() -> None:
    """Means 2 and 4: mean 3, standard error |4 - 2| / 2 = 1, t(1) = 12.706."""
    found = clustered_mean([[1.0, 3.0], [4.0, 4.0]])
    assert (found.value, found.standard_error, found.count) == (3.0, 1.0, 2)
    assert found.interval == pytest.approx((3 - 12.7062, 3 + 12.7062), abs=1e-4)


def test_unequal_clusters_are_weighted_by_their_tokens() -> None:
    """Sums 1 and 9 over 1 and 3 tokens: mean 2.5; residuals -1.5 and 1.5: sqrt(2 / 1 * 4.5) / 4 = 0.75."""
    found = clustered_mean([[1.0], [3.0, 3.0, 3.0]])
    assert (found.value, found.standard_error) == (2.5, 0.75)


def test_clusters_of_one_value_give_the_textbook_standard_error() -> None:
    values = [0.3, 1.7, 2.2, 5.0, -1.0]
    found = clustered_mean([[value] for value in values])
    assert found.value == pytest.approx(statistics.fmean(values))
    assert found.standard_error == pytest.approx(statistics.stdev(values) / sqrt(5))


def test_tokens_that_move_together_count_as_one() -> None:
    """A thousand copies of a value say no more than one: the interval does not shrink."""
    once = clustered_mean([[0.1], [0.2], [0.4]])
    often = clustered_mean([[0.1] * 1000, [0.2] * 1000, [0.4] * 1000])
    assert often.standard_error == pytest.approx(once.standard_error)


@pytest.mark.parametrize("clusters", [[], [[1.0]], [[1.0], []]])
def test_one_cluster_has_no_spread(clusters: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="clusters"):
        clustered_mean(clusters)


def test_the_interval_holds_the_truth_19_times_of_20() -> None:
    """Four texts of correlated tokens: naive token-level intervals would hold it in about half of the cases."""
    rng = Random(1)
    hits = 0
    for _ in range(1000):
        offsets = [rng.gauss(0, 1) for _ in range(4)]
        low, high = clustered_mean([[offset + rng.gauss(0, 1) for _ in range(20)] for offset in offsets]).interval
        hits += low < 0 < high
    assert 930 <= hits <= 970  # 950 +- 3 standard deviations of 6.9


def test_a_difference_of_losses_becomes_a_ratio_of_perplexities() -> None:
    """llama.cpp: the perplexity ratio is exp of the mean difference of log-probabilities."""
    found = Mean(value=log(1.02), standard_error=0.001, count=31).relative_change()
    assert found.value == pytest.approx(0.02)
    assert found.high == pytest.approx(1.02 * exp(2.0423 * 0.001) - 1, abs=1e-7)
    assert found.low == pytest.approx(1.02 * exp(-2.0423 * 0.001) - 1, abs=1e-7)


def test_a_ratio_beyond_all_numbers_stays_a_number() -> None:
    assert Mean(value=5.0, standard_error=1000.0, count=2).relative_change().high < float("inf")


def test_an_estimate_is_cut_to_what_is_possible() -> None:
    found = Mean(value=0.001, standard_error=0.01, count=5).estimate(lowest=0.0)
    assert (found.low, found.value, found.count) == (0.0, 0.001, 5)


def test_needed_samples_are_the_square_of_spread_over_distance() -> None:
    """Standard deviation 0.02 a sample, 0.002 to the limit: 7.849 * 100 = 785."""
    found = Mean(value=0.003, standard_error=0.02 / sqrt(8), count=8)
    assert found.needed_count(0.005) == 785
    assert found.needed_count(0.003) is None
    assert found.needed_count(0.003 + 1e-9) is None  # more than anybody measures


def test_needed_samples_are_more_than_were_taken() -> None:
    assert Mean(value=0.0, standard_error=1e-9, count=8).needed_count(1.0) == 9


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe, Stat. Med. 17, 857 (1998), table I, method 3: 81 of 263 and 15 of 148."""
    found = proportion(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    found = proportion(15, 148)
    assert (found.low, found.high) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_nothing_in_300_trials_bounds_the_rate_at_one_percent() -> None:
    assert (proportion(0, 300).low, proportion(0, 300).high) == (0.0, 0.01)
    assert (proportion(300, 300).low, proportion(300, 300).high) == (0.99, 1.0)
    assert proportion(0, 2).high == 1.0


@pytest.mark.parametrize(("lost", "gained", "count"), [(40, 20, 160), (1, 7, 21), (5, 0, 60), (3, 9, 1000), (2, 1, 8)])
def test_tangos_bounds_are_roots_of_the_closed_form(lost: int, gained: int, count: int) -> None:
    """Yang, Sun and Hardin, Stat. Med. 32, 1336 (2013): both bounds solve one quartic, written down by them."""
    square = normal_quantile(0.975) ** 2
    net, flipped, share = lost - gained, lost + gained, count / square
    coefficients = (
        count**2 * (share + 1) ** 2,
        -count * net * (share + 1) * (4 * share + 1),
        2 * count * net**2 * (3 * share + 2) / square - count**2 * (flipped / square + 1),
        count * net * (2 * flipped / square + 1) - net**3 * (4 * share + 1) / square,
        net**2 * (net**2 / square - flipped) / square,
    )
    found = Flips(lost=lost, gained=gained, count=count).drop
    for bound in (found.low, found.high):
        value = sum(factor * bound**power for factor, power in zip(coefficients, (4, 3, 2, 1, 0)))
        assert abs(value) < 1e-9 * coefficients[0]
    assert found.low < found.value < found.high


def test_losses_and_gains_are_mirror_images() -> None:
    there, back = Flips(lost=9, gained=2, count=100).drop, Flips(lost=2, gained=9, count=100).drop
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_what_never_flips_bounds_the_drop_at_three_over_n() -> None:
    found = Flips(lost=0, gained=0, count=300).drop
    assert (found.low, found.value, found.high) == (-0.01, 0.0, 0.01)


def test_everything_lost_is_a_drop_of_one() -> None:
    """Then p(lost) = (1 + drop) / 2 fits best: n (1 - drop)^2 = z^2 (1 - drop^2), so drop = (n - z^2) / (n + z^2)."""
    found = Flips(lost=40, gained=0, count=40).drop
    assert found.value == 1.0
    assert found.low == pytest.approx((40 - 1.959964**2) / (40 + 1.959964**2))
    assert found.high == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("flips", "limit", "needed"),
    [
        (Flips(lost=10, gained=10, count=400), 0.01, 3925),  # d = 5 %: the usual 3,920 with 7.84 for 7.849
        (Flips(lost=10, gained=10, count=200), 0.01, 7849),  # d = 10 %
        (Flips(lost=10, gained=10, count=200), 0.03, 873),
        (Flips(lost=4, gained=2, count=200), 0.03, 589),  # the distance to a drop of 1 % is 2 points
    ],
)
def test_needed_questions_are_those_of_a_paired_test(flips: Flips, limit: float, needed: int) -> None:
    assert flips.needed_count(limit) == needed


def test_needed_questions_where_nothing_flips_follow_the_rule_of_three() -> None:
    flips = Flips(lost=0, gained=0, count=40)
    needed = flips.needed_count(0.05)
    assert needed == 61
    assert Flips(lost=0, gained=0, count=needed).drop.high < 0.05 <= Flips(lost=0, gained=0, count=needed - 1).drop.high


def test_a_drop_on_the_limit_cannot_be_decided() -> None:
    assert Flips(lost=2, gained=1, count=100).needed_count(0.01) is None


def test_flips_are_counted_pair_by_pair() -> None:
    assert count_flips([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == Flips(lost=2, gained=1, count=5)
    with pytest.raises(ValueError, match="cannot be paired"):
        count_flips([1], [1, 0])


@pytest.mark.parametrize(
    ("count", "place"), [(6, 1), (7, 1), (8, 1), (9, 2), (10, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8)]
)
def test_the_interval_of_a_median_is_between_the_printed_order_statistics(count: int, place: int) -> None:
    """95 %: the usual table of the sign test (Conover, Practical Nonparametric Statistics, table A3)."""
    found = median([float(value) for value in range(count, 0, -1)])
    assert (found.low, found.high) == (place, count + 1 - place)
    assert (found.value, found.count) == (statistics.median(range(1, count + 1)), count)


def test_five_values_have_no_interval_of_the_median() -> None:
    with pytest.raises(ValueError, match="5 values have no interval"):
        median([1.0] * 5)
