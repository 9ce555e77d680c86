"""Figures with honest intervals: paired differences, proportions, and how many samples would decide a question.

Intervals are of 95 % and two-sided. What two caches say about the same sample is compared pair by pair, so that what is
hard about a sample falls out of the difference. Tokens of one text are no independent samples: texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import atan, ceil, comb, cos, expm1, inf, pi, sin, sqrt
from statistics import NormalDist

from kvplan.core.evaluation import Estimate
from kvplan.core.frozen import dataclass

CONFIDENCE = 0.95
POWER = 0.80
"""The chance with which the needed samples decide: 80 % at a level of 5 % is the usual design."""

ZERO_EVENTS = 3.0
"""What was never seen in n trials has a rate below 3/n (95 %; the rule of three, Hanley 1983: ln 20 is 2.996)."""

FEWEST_OF_A_MEDIAN = 6
"""Values whose smallest and largest enclose the median with a chance of 95 %: 1 - 2 / 2^6 = 96.9 %."""

MOST_SAMPLES = 10_000_000
"""A gate that would need more samples than this lies on the measured figure: more samples cannot decide it."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_SAMPLES_FACTOR = (_Z + NormalDist().inv_cdf(POWER)) ** 2
"""(z_a + z_b)^2 = 7.85."""

_LARGEST_LOGARITHM = 700.0
_MANY_DEGREES = 1000
"""From here on Student's quantiles are taken for the normal ones, which are 0.12 % smaller."""


def normal_quantile(probability: float) -> float:
    """The value below which a standard normal variable lies with this probability, in (0, 1)."""
    return NormalDist().inv_cdf(probability)


@cache
def student_quantile(probability: float, degrees: int) -> float:
    """The same for Student's t with ``degrees`` of freedom, to 1e-9."""
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees)
    if degrees > _MANY_DEGREES:
        return normal_quantile(probability)
    return _crossing(lambda t: _student_inside(t, degrees) - (2 * probability - 1), 0.0, 1e6)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, in proportion between neighbours (Hyndman and Fan, type 7)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> Estimate:
    """The median with the interval that order statistics give, whatever the values are distributed like.

    Between the k-th smallest and the k-th largest value, k being the largest for which the chance of at least 95 % is
    kept: the ends of 6 values, those but one of 9. Raises ValueError for fewer than 6 values, which have no such k.
    """
    ordered, count = sorted(values), len(values)
    outside = [sum(comb(count, below) for below in range(end)) / 2 ** (count - 1) for end in range(1, count // 2 + 1)]
    ends = [k for k, chance in enumerate(outside, start=1) if chance <= 1 - CONFIDENCE]
    if not ends:
        raise ValueError(f"{count} values have no interval of the median, {FEWEST_OF_A_MEDIAN} are needed")
    low, high = ordered[ends[-1] - 1], ordered[-ends[-1]]
    return Estimate(value=quantile(ordered, 0.5), low=low, high=high, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over ``count`` independent clusters, at least two, with its standard error."""

    value: float
    standard_error: float
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Student's t."""
        half = student_quantile((1 + CONFIDENCE) / 2, self.count - 1) * self.standard_error
        return self.value - half, self.value + half

    def estimate(self, lowest: float = -inf, highest: float = inf) -> Estimate:
        """The mean and its interval, cut to what is possible."""
        low, high = self.interval
        return Estimate(value=self.value, low=max(low, lowest), high=min(high, highest), count=self.count)

    def relative_change(self) -> Estimate:
        """exp(mean) - 1 of a mean of logarithms, such as differences of losses in nats."""
        low, high = self.interval
        return Estimate(value=_grown(self.value), low=_grown(low), high=_grown(high), count=self.count)

    def needed_count(self, limit: float) -> int | None:
        """Clusters after which the interval most likely clears ``limit``: (z_a + z_b)^2 variance / distance^2.

        None where the mean lies on the limit, so that no number would do.
        """
        variance = self.count * self.standard_error**2
        return _needed(_SAMPLES_FACTOR * variance, limit - self.value, self.count)


def clustered_mean(clusters: Sequence[Sequence[float]]) -> Mean:
    """The mean of all values, where only the clusters are independent of each other.

    A ratio estimator: sums over counts, with the spread of the clusters' sums around the mean. Clusters of equal size
    give the plain mean of their means. Raises ValueError for fewer than two clusters, which tell nothing of a spread.
    """
    if len(clusters) < 2 or not all(clusters):
        raise ValueError(f"{len(clusters)} clusters, of which some may be empty, have no spread")
    total, count = sum(map(len, clusters)), len(clusters)
    mean = sum(map(sum, clusters)) / total
    squares = sum((sum(cluster) - mean * len(cluster)) ** 2 for cluster in clusters)
    return Mean(value=mean, standard_error=sqrt(squares * count / (count - 1)) / total, count=count)


def proportion(hits: int, count: int) -> Estimate:
    """Hits among ``count`` trials, with Wilson's score interval; without a hit, or a miss, by the rule of three."""
    value, square = hits / count, _Z**2
    if hits in (0, count):
        bound = min(1.0, ZERO_EVENTS / count)
        low, high = (0.0, bound) if hits == 0 else (1 - bound, 1.0)
        return Estimate(value=value, low=low, high=high, count=count)
    middle = (value + square / (2 * count)) / (1 + square / count)
    half = _Z * sqrt(value * (1 - value) / count + square / (4 * count**2)) / (1 + square / count)
    return Estimate(value=value, low=middle - half, high=middle + half, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """``count`` questions put to two caches: ``lost`` only the first answered rightly, ``gained`` only the second.

    Questions that both answer alike say nothing of a difference (McNemar).
    """

    lost: int
    gained: int
    count: int

    @property
    def drop(self) -> Estimate:
        """The share of right answers that is lost on balance, with Tango's score interval (Stat. Med. 17, 891, 1998).

        Where nothing flips, neither rate is above 3/n.
        """
        value = (self.lost - self.gained) / self.count
        if not self.lost and not self.gained:
            bound = min(1.0, ZERO_EVENTS / self.count)
            return Estimate(value=0.0, low=-bound, high=bound, count=self.count)
        low = _crossing(lambda drop: _Z - self._score(drop), -1.0, value)
        high = _crossing(lambda drop: -_Z - self._score(drop), value, 1.0)
        return Estimate(value=value, low=low, high=high, count=self.count)

    def needed_count(self, limit: float) -> int | None:
        """Questions that most likely decide whether the drop is below ``limit``: 7.85 d / distance^2.

        d is the share that flips. Where nothing flips, 3 / limit. None where the drop lies on the limit.
        """
        flipped = self.lost + self.gained
        if not flipped:
            return max(self.count, int(ZERO_EVENTS / limit)) + 1 if limit > 0 else None
        distance = limit - (self.lost - self.gained) / self.count
        return _needed(_SAMPLES_FACTOR * flipped / self.count, distance, self.count)

    def _score(self, drop: float) -> float:
        """How many standard errors the flips lie above a ``drop`` inside (-1, 1); it falls as the drop grows."""
        twice = 2 * self.count
        linear = (twice - self.lost + self.gained) * drop - self.lost - self.gained
        constant = -self.gained * drop * (1 - drop)
        gained_rate = (sqrt(max(linear**2 - 4 * twice * constant, 0.0)) - linear) / (2 * twice)
        variance = self.count * (2 * gained_rate + drop * (1 - drop))
        difference = self.lost - self.gained - self.count * drop
        return difference / sqrt(variance) if variance > 0 else inf * difference if difference else 0.0


def count_flips(before: Sequence[int], after: Sequence[int]) -> Flips:
    """Of answers (1 right, 0 wrong) to the same questions in the same order. Raises ValueError for unequal numbers."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} answers cannot be paired with {len(after)}")
    pairs = list(zip(before, after))
    return Flips(lost=pairs.count((1, 0)), gained=pairs.count((0, 1)), count=len(pairs))


def _grown(logarithm: float) -> float:
    """exp - 1, up to what a double holds."""
    return expm1(min(logarithm, _LARGEST_LOGARITHM))


def _needed(scaled_variance: float, distance: float, count: int) -> int | None:
    """More than ``count``; None where the distance is none, or needs more than ``MOST_SAMPLES``."""
    if distance == 0 or scaled_variance / distance**2 > MOST_SAMPLES:
        return None
    return max(count + 1, ceil(scaled_variance / distance**2))


def _student_inside(t: float, degrees: int) -> float:
    """The probability that |T| < t, by the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = atan(t / sqrt(degrees))
    odd = degrees % 2
    total, term = 0.0, cos(angle) if odd else 1.0
    for step in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cos(angle) ** 2 * (step - 1) / step
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total


def _crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises through zero between ``low`` and ``high`` does so, to the last digits of a double."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
