"""Does the harness read the compressed cache at all? Runs before any measurement, and ends it where the answer is no.

In one forward pass over an empty cache the cache is written and never read, so that perplexity does not depend on the
compression: INT8 and INT4 have been published with the same figure to the last digit. Three checks find that out:

1. a cache whose stored tensors are set to zero must change the distribution, and raise the loss;
2. two bit widths must not give the same figures;
3. a policy that may drop nothing yet must give what the uncompressed cache gives: that the attention which policies
   run under is the model's own is measured here, as the noise of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from kvplan.core.errors import EvaluationError, UnsupportedError
from kvplan.core.units import MAX_TOKENS
from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.texts import prose_ids

PREFIX_TOKENS, SUFFIX_TOKENS, CHUNK_TOKENS = 256, 64, 16

NOISE_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.005}
"""Mean KL divergence (nats) between two exact attentions that differ in the order of their sums alone.

In fp32 it is below 1e-10 on the demo model. In 16 bits a rounding step of the logits is 2^-8 (bf16) or 2^-11 (fp16) of
them; the limits leave room for logits of some tens.
"""

_WIDTHS = (Method(kv_dtype="int8_per_token_head"), Method(kv_dtype="int4_per_token_head"))
_DROPS_NOTHING = Method(policy=f"h2o:keep=0.5,newest={MAX_TOKENS // 2}")
"""H2O with all tokens among the newest, which always stay; attention is observed all the same."""


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """What was found, nats per token: losses, and mean KL divergences to the uncompressed cache.

    ``noise_kld`` is what the attention of policies adds by itself; None where the model runs under no policy.
    """

    loss: float
    zeroed_loss: float
    zeroed_kld: float
    int8_kld: float
    int4_kld: float
    noise_kld: float | None


def self_check(handle: ModelHandle, text: str | None = None) -> SelfCheck:
    """Run the checks on ``text``, at least 320 tokens of it, or on text of the demo's making.

    Raises EvaluationError, which says what is wrong, where the figures of this harness would mean nothing.
    """
    ids = _ids(handle, text)
    baseline = _read(handle, Method(), ids)
    zeroed = _read(handle, Method(), ids, change=_zero)
    int8, int4 = (_read(handle, method, ids) for method in _WIDTHS)
    found = SelfCheck(
        loss=_loss(baseline, ids),
        zeroed_loss=_loss(zeroed, ids),
        zeroed_kld=mean_kld(baseline, zeroed),
        int8_kld=mean_kld(baseline, int8),
        int4_kld=mean_kld(baseline, int4),
        noise_kld=_noise(handle, ids, baseline),
    )
    _judge(found, same_widths=torch.equal(int8, int4), noise_limit=NOISE_LIMITS[handle.dtype])
    return found


def mean_kld(baseline: Tensor, other: Tensor) -> float:
    """Mean KL divergence (nats) of log-probabilities [..., vocabulary] from the baseline's."""
    return float((baseline.exp() * (baseline - other)).sum(dim=-1).mean())


def _judge(found: SelfCheck, *, same_widths: bool, noise_limit: float) -> None:
    """Raise EvaluationError on the first finding that makes figures worthless."""
    blind = "the harness does not read the compressed cache, so no figure of it would say anything about a method"
    if found.zeroed_kld <= noise_limit:
        raise EvaluationError(
            f"self-check: setting the cache to zero changes nothing (mean KLD {found.zeroed_kld:.2g}): {blind}",
            "score tokens that are fed after the prefill, through the cache",
        )
    if same_widths:
        raise EvaluationError(
            f"self-check: int8 and int4 give the same distributions to the last digit: {blind}",
            "score tokens that are fed after the prefill, through the cache",
        )
    if found.zeroed_loss <= found.loss:
        raise EvaluationError(
            "self-check: setting the cache to zero does not raise the loss "
            f"({found.loss:.4f} nats before, {found.zeroed_loss:.4f} after)",
            "is the model trained, and is the text of the kind that it reads? random weights are no evidence",
        )
    if found.noise_kld is not None and found.noise_kld > noise_limit:
        raise EvaluationError(
            "self-check: a policy that drops nothing changes the distribution "
            f"(mean KLD {found.noise_kld:.2g}, limit {noise_limit:g}): attention under policies is not the model's own",
            "evaluate methods without a policy on this model, and report its architecture",
        )


def _ids(handle: ModelHandle, text: str | None) -> Tensor:
    wanted = PREFIX_TOKENS + SUFFIX_TOKENS
    ids = prose_ids(handle, wanted, seed=0) if text is None else handle.encode(text, start=True)[:wanted]
    if len(ids) < wanted:
        raise EvaluationError(f"self-check: the text has {len(ids)} tokens, {wanted} are needed", "give a longer text")
    return handle.rows([ids])


def _read(handle: ModelHandle, method: Method, ids: Tensor, change: Callable[[Cache], None] | None = None) -> Tensor:
    """Log-probabilities behind the tokens of the suffix, [suffix, vocabulary]; ``change`` is done to the full cache."""
    cache = handle.new_cache(method)
    handle.prefill(ids[:, :PREFIX_TOKENS], cache)
    if change is not None:
        change(cache)
    return torch.cat(list(handle.score_suffix(cache, ids[:, PREFIX_TOKENS:], CHUNK_TOKENS)), dim=1)[0]


def _zero(cache: Cache) -> None:
    with torch.inference_mode():
        for stored in cache.stored_tensors.values():
            stored.zero_()


def _loss(log_probs: Tensor, ids: Tensor) -> float:
    targets = ids[0, PREFIX_TOKENS + 1 :]
    return float(torch.nn.functional.nll_loss(log_probs[:-1], targets))


def _noise(handle: ModelHandle, ids: Tensor, baseline: Tensor) -> float | None:
    try:
        return mean_kld(baseline, _read(handle, _DROPS_NOTHING, ids))
    except UnsupportedError:
        return None
