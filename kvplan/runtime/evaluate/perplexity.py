"""Loss and distribution of the next token behind a compressed prefix: nll, KL divergence to the baseline, same top.

Each sample is a text of ``prefix_tokens`` + ``suffix_tokens``. The prefix is prefilled, the cache compresses it, and
the suffix is scored in chunks that read the cache. The baseline's distribution is computed once per piece and shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kvplan.core.errors import UsageError
from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.shared_prefill import SharedPrefill
from kvplan.runtime.evaluate.tasks import Piece, batches, in_batches
from kvplan.runtime.evaluate.texts import prose_ids, read_text

_DISTRIBUTION_BYTES = 1 << 29
"""The most that the baseline's log-probabilities of one piece take: 512 MiB, in fp32 and on the model's device."""


@dataclass(frozen=True, kw_only=True)
class PerplexitySettings:
    """``text`` is a file of UTF-8 text, cut into consecutive samples; None: prose of the demo's making, from ``seed``.

    ``chunk_tokens`` of the suffix are fed at once: 1 is decoding exactly, 16 to 64 is fast and nearly so.
    """

    text: Path | None = None
    prefix_tokens: int = 1536
    suffix_tokens: int = 256
    chunk_tokens: int = 32
    num_samples: int = 8
    batch_tokens: int = 8192
    seed: int = 0


def perplexity(handle: ModelHandle, settings: PerplexitySettings) -> list[Piece]:
    """The task ``perplexity``. Raises UsageError where lengths make no sense or the text is too short for a sample."""
    _check(settings)
    rows = _samples(handle, settings)
    bytes_each = 4 * handle.vocab_size * settings.suffix_tokens
    length = settings.prefix_tokens + settings.suffix_tokens
    size = max(1, min(settings.batch_tokens // length, _DISTRIBUTION_BYTES // bytes_each))
    named = [
        (f"{settings.prefix_tokens}+{settings.suffix_tokens} tokens, text {at}", ids) for at, ids in enumerate(rows)
    ]
    return [_piece(handle, settings, some) for some in batches(named, size)]


def _piece(handle: ModelHandle, settings: PerplexitySettings, named: Sequence[tuple[str, list[int]]]) -> Piece:
    samples = tuple(name for name, _ in named)

    def measure(methods: Sequence[Method]) -> Iterator[Record]:
        ids = handle.rows([ids for _, ids in named])
        last = settings.prefix_tokens - 1  # it is fed after the compression, too
        prefix = SharedPrefill(handle, ids[:, :last])
        suffix = ids[:, last:-1]
        chunk = settings.chunk_tokens
        baseline = list(handle.score_suffix(prefix.cache_of(Method())[0], suffix, chunk))
        for method, slices in in_batches(methods, len(samples)):
            for rows in slices:
                compared = [log_probs[rows] for log_probs in baseline]
                own: Iterable[Tensor] = compared
                if not method.is_baseline:
                    own = handle.score_suffix(prefix.cache_of(method, rows)[0], suffix[rows], chunk)
                targets = ids[rows, settings.prefix_tokens :].split(chunk, dim=1)
                yield from _records(method, samples[rows], own, compared, targets)

    return Piece(tasks=("perplexity",), samples=samples, measure=measure)


def _records(
    method: Method,
    samples: Sequence[str],
    own: Iterable[Tensor],
    baseline: Sequence[Tensor],
    targets: Sequence[Tensor],
) -> Iterator[Record]:
    """Of each sample, from the log-probabilities of both and the tokens that came, chunk by chunk."""
    parts = [_compare(*chunks) for chunks in zip(own, baseline, targets)]
    nll, kld, same = (torch.cat(values, dim=1).cpu() for values in zip(*parts))
    for at, sample in enumerate(samples):
        values = {"nll": _short(nll[at]), "kld": _short(kld[at]), "same_top": same[at].tolist()}
        yield Record(task="perplexity", method=method.text, sample=sample, values=values)


def _compare(own: Tensor, baseline: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """nll and KL divergence (nats), and whether the likeliest token is the same: [batch, tokens] each."""
    nll = -own.gather(2, targets[:, :, None])[:, :, 0]
    kld = torch.nn.functional.kl_div(own, baseline, reduction="none", log_target=True).sum(dim=2)
    same = (own.argmax(dim=2) == baseline.argmax(dim=2)).to(torch.int64)
    return nll, kld.clamp(min=0), same


def _short(values: Tensor) -> list[float]:
    """As a list of Python numbers of six digits, which is as far as fp32 sums go."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def _samples(handle: ModelHandle, settings: PerplexitySettings) -> list[list[int]]:
    """Token ids of each sample, started as the tokenizer starts a text."""
    length = settings.prefix_tokens + settings.suffix_tokens
    if settings.text is None:
        return [prose_ids(handle, length, settings.seed + at) for at in range(settings.num_samples)]
    start = handle.encode("", start=True)
    ids, room = handle.encode(read_text(settings.text)), length - len(start)
    found = [start + list(some) for some in batches(ids, room) if len(some) == room]
    if not found:
        raise UsageError(
            f"{settings.text} has {len(ids)} tokens, fewer than one sample of {length}",
            "give a longer text or a smaller --ctx",
        )
    return found[: settings.num_samples]


def _check(settings: PerplexitySettings) -> None:
    for name in ("prefix_tokens", "suffix_tokens", "chunk_tokens", "num_samples"):
        if getattr(settings, name) < (2 if name == "prefix_tokens" else 1):
            raise UsageError(f"perplexity: {name} is {getattr(settings, name)}, which leaves nothing to read or score")
