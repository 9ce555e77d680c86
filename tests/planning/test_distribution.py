"""Requests drawn from a distribution."""

from __future__ import annotations

from math import log
from statistics import median, quantiles

import pytest

from kvplan.core.errors import UsageError
from kvplan.planning.distribution import generate, parse_distribution


def test_the_same_seed_gives_the_same_requests() -> None:
    first = generate("prompt=1k:0.8,output=256:1.0", rate=2, count=50)
    assert first.requests == generate("prompt=1k:0.8,output=256:1.0", rate=2, count=50).requests
    assert first.requests != generate("prompt=1k:0.8,output=256:1.0", rate=2, count=50, seed=1).requests


def test_medians_tails_and_the_rate_are_those_asked_for() -> None:
    requests = generate("prompt=1000/8000, output=200:1.0", rate=5, count=20_000).requests
    prompts, outputs = ([request[index] for request in requests] for index in (1, 2))
    assert median(prompts) == pytest.approx(1000, rel=0.05)
    assert quantiles(prompts, n=100)[98] == pytest.approx(8000, rel=0.1)
    assert median(outputs) == pytest.approx(200, rel=0.05)
    assert requests[-1].arrival_seconds == pytest.approx(20_000 / 5, rel=0.05)


def test_a_pair_of_quantiles_is_a_sigma() -> None:
    prompt, output = parse_distribution("output=7:0,prompt=100/1000")
    assert prompt.sigma == pytest.approx(log(10) / 2.3263, rel=1e-4)  # the normal quantile of 0.99
    assert (output.median_tokens, output.sigma) == (7, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt=1024:0.8", "says nothing of output"),
        ("prompt=1024,output=1:1", "no sigma"),
        ("prompt=1024:x,output=1:1", "no sigma"),
        ("prompt=1024:nan,output=1:1", "no sigma"),
        ("prompt=1024:-1,output=1:1", "no sigma"),
        ("prompt=abc:1,output=1:1", "not a token count"),
        ("prompt=8k/1k,output=1:1", "below the p50"),
        ("prompt=1:1,prompt=1:1,output=1:1", "twice"),
        ("length=1:1", "is not prompt"),
        ("", "is not prompt"),
    ],
)
def test_malformed_distributions_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_distribution(text)


@pytest.mark.parametrize(("rate", "count"), [(0, 1), (float("nan"), 1), (float("inf"), 1), (1, 0)])
def test_no_rate_and_no_requests_are_refused(rate: float, count: int) -> None:
    with pytest.raises(UsageError):
        generate("prompt=1:1,output=1:1", rate, count)
