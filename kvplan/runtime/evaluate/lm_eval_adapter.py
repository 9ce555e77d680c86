"""kvplan's caches under lm-evaluation-harness: the model ``kvplan``, which reads through a compressed cache.

    import kvplan.runtime.evaluate.lm_eval_adapter  # registers it
    lm_eval.simple_evaluate(model="kvplan", model_args={"pretrained": "DIR", "method": "int4"}, tasks=["ruler"])

or ``python -m kvplan.runtime.evaluate.lm_eval_adapter run --model kvplan --model_args pretrained=DIR,method=int4
--tasks ruler``, which is ``lm_eval`` with this model. The harness's own ``hf`` model scores in one pass over an empty
cache, which never reads it, so that no compression would ever cost anything; here a context is prefilled and compressed
before what follows it is scored or generated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from kvplan.core.errors import UnsupportedError
from kvplan.runtime.evaluate.harness import NATIVE_FORMATS, ModelHandle, reading
from kvplan.runtime.evaluate.methods import parse_method

CHUNK_TOKENS = 32
"""Tokens of a continuation that are fed at once; each chunk reads all before it through the cache."""


@register_model("kvplan")
class KvplanLM(HFLM):  # type: ignore[misc]
    """The harness's ``hf`` model with a cache of kvplan's.

    ``method`` is a word of ``kvplan evaluate``: ``int8``, ``h2o:keep=0.5``, ``int4+window:1024;sinks=4`` (a semicolon
    where ``--model_args`` would split at the comma). ``native`` is the format of what is not compressed; else that of
    the dtype that the model is loaded in. Raises UnknownNameError, UsageError, or UnsupportedError for models that are
    no causal decoders.
    """

    def __init__(self, *args: Any, method: str = "none", native: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.backend != "causal":
            raise UnsupportedError("kvplan's caches are those of causal decoders", "use the model hf for this one")
        self.kv_method = parse_method(method.replace(";", ","))
        self._native = native

    @property
    def handle(self) -> ModelHandle:
        """The model as kvplan's harness reads it."""
        return ModelHandle(
            name=str(self.pretrained),
            model=self.model,
            tokenizer=self.tokenizer,
            device=torch.device(self.device),
            native=self._native or NATIVE_FORMATS[self.model.dtype],
        )

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether greedy decoding says it) of each continuation, one after another."""
        answers = []
        for words, context, continuation in requests:
            answer = self._score(context, continuation)
            answers.append(answer)
            if words is not None:
                self.cache_hook.add_partial("loglikelihood", words, answer)
        return answers

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """The last token of the context is fed after the compression, so that nothing is told by the prefill."""
        handle = self.handle
        ids = handle.rows([(context + continuation)[-(self.max_length + 1) :]])
        first = ids.shape[1] - len(continuation) - 1
        cache = handle.new_cache(self.kv_method)
        if first > 0:
            handle.prefill(ids[:, :first], cache)
        fed = ids[:, max(first, 0) : -1]
        rows: Iterator[Tensor] = handle.score_suffix(cache, fed, CHUNK_TOKENS)
        log_probs, targets = torch.cat(list(rows), dim=1)[0], ids[0, max(first, 0) + 1 :]
        found = log_probs.gather(1, targets[:, None]).sum()
        return float(found), bool((log_probs.argmax(dim=-1) == targets).all())

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """The harness's own generation with a new cache for each batch."""
        cache = self.handle.new_cache(self.kv_method)
        with torch.inference_mode(), reading(self.model, cache):
            made: Tensor = super()._model_generate(
                context, max_length=max_length, stop=stop, past_key_values=cache, **generation_kwargs
            )
        return made


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
