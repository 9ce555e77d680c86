"""Requests drawn from a distribution, for those without a trace."""

from __future__ import annotations

from math import log
from random import Random

from kvplan.core.errors import UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.units import MAX_TOKENS, parse_tokens
from kvplan.core.workload import Request, Workload

_Z99 = 2.3263478740408408
"""The standard normal quantile of 0.99."""
_HINT = "write it like prompt=1024:0.8,output=256:1.0 (median:sigma) or prompt=1k/8k,output=256/2k (p50/p99)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal:
    """Token counts whose logarithm is normal: half are below ``median_tokens``."""

    median_tokens: int
    sigma: float

    def draw(self, random: Random) -> int:
        """A whole number of tokens, at least 1."""
        drawn = random.lognormvariate(log(self.median_tokens), self.sigma)
        return max(1, round(min(drawn, MAX_TOKENS)))


def parse_distribution(text: str) -> tuple[LogNormal, LogNormal]:
    """Prompt and output lengths: ``prompt=1024:0.8,output=256:1.0``, or p50 and p99: ``prompt=1k/8k``.

    Raises UsageError.
    """
    lengths: dict[str, LogNormal] = {}
    for item in text.split(","):
        name, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or name not in ("prompt", "output"):
            raise UsageError(f"--distribution {text!r}: {item.strip()!r} is not prompt=... or output=...", _HINT)
        if name in lengths:
            raise UsageError(f"--distribution {text!r} gives {name} twice", _HINT)
        lengths[name] = _parse_lengths(name, value)
    missing = [name for name in ("prompt", "output") if name not in lengths]
    if missing:
        raise UsageError(f"--distribution {text!r} says nothing of {' and '.join(missing)}", _HINT)
    return lengths["prompt"], lengths["output"]


def generate(distribution_text: str, rate: float, count: int, seed: int = 0) -> Workload:
    """``count`` requests that arrive at random, ``rate`` a second on average (a Poisson process).

    The same arguments give the same requests. Raises UsageError.
    """
    prompt, output = parse_distribution(distribution_text)
    if not 0 < rate < float("inf"):
        raise UsageError(f"an arrival rate is a positive number of requests a second, not {rate}")
    if count < 1:
        raise UsageError(f"{count} requests are none to replay", "ask for at least 1")
    random = Random(seed)
    requests, arrival = [], 0.0
    for _ in range(count):
        requests.append(Request(arrival, prompt.draw(random), output.draw(random)))
        arrival += random.expovariate(rate)
    return Workload(requests=tuple(requests), source=f"{distribution_text} at {rate:g} requests a second, seed {seed}")


def _parse_lengths(name: str, value: str) -> LogNormal:
    if "/" in value:
        median_text, _, tail_text = value.partition("/")
        median, tail = parse_tokens(median_text, f"{name} p50"), parse_tokens(tail_text, f"{name} p99")
        if tail < median:
            raise UsageError(f"{name} lengths {value!r}: the p99 lies below the p50", _HINT)
        return LogNormal(median_tokens=median, sigma=log(tail / median) / _Z99)
    median_text, colon, sigma_text = value.partition(":")
    try:
        sigma = float(sigma_text) if colon else -1.0
    except ValueError:
        sigma = -1.0
    if not 0 <= sigma <= 10:
        raise UsageError(f"{name} lengths {value!r} have no sigma between 0 and 10", _HINT)
    return LogNormal(median_tokens=parse_tokens(median_text, f"{name} median"), sigma=sigma)
