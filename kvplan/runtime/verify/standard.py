"""The standard set: a few small requests over families, formats, policies and engines, in under a minute on a CPU."""

from __future__ import annotations

from typing import NamedTuple

from kvplan.engines import get_engine
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model
from kvplan.runtime.verify.run import USUAL_GROUPS, Case
from kvplan.specs.reference import resolve_model

CONTEXT_TOKENS = 2053
"""A prime beyond most windows: no block, group or chunk divides it."""


class StandardRequest(NamedTuple):
    """A request of the set in words, and the groups of checks that it runs."""

    model: str
    kv_dtype: str = "auto"
    policy: str = "none"
    engine: str = "none"
    groups: tuple[str, ...] = ("allocation",)

    @property
    def subject(self) -> str:
        """``gemma-3-1b fp8``, with the policy and the engine where there are any."""
        words = (
            self.model,
            self.kv_dtype if self.kv_dtype != "auto" else "",
            self.policy if self.policy != "none" else "",
        )
        return " ".join(filter(None, (*words, self.engine if self.engine != "none" else "")))


STANDARD_SET = (
    StandardRequest("llama-3.2-1b", groups=USUAL_GROUPS),
    StandardRequest("gemma-3-1b", "int8", groups=USUAL_GROUPS),
    StandardRequest("deepseek-v2-lite", groups=USUAL_GROUPS),
    StandardRequest("lfm2-8b-a1b"),
    StandardRequest("mamba-130m", groups=USUAL_GROUPS),
    StandardRequest("qwen3-next-80b-a3b", "fp8"),
    StandardRequest("llama-4-scout", "nvfp4"),
    StandardRequest("deepseek-v3.2", "fp8_ds_mla"),
    StandardRequest("bart-base"),
    StandardRequest("gpt-oss-20b", "mxfp8"),
    StandardRequest("qwen3-0.6b", "kivi"),
    StandardRequest("qwen3-0.6b", "q8_0/q4_0"),
    StandardRequest("qwen3-0.6b", "int4", "h2o:keep=0.2"),
    StandardRequest("qwen2.5-7b", "turboquant_k3v4_nc", "window:1024,sinks=4"),
    StandardRequest("llama-3.2-1b", "fp8", engine="vllm"),
    StandardRequest("gemma-3-1b", engine="llamacpp"),
)
"""Plain, windowed, latent, recurrent, hybrid, chunked, sparse and cross attention; rows, groups, blocks and tiers."""


def standard_cases() -> list[Case]:
    """The set, sized."""
    return [_case(request) for request in STANDARD_SET]


def _case(request: StandardRequest) -> Case:
    model, engine = resolve_model(request.model), get_engine(request.engine)
    words = RequestWords(kv_dtype=request.kv_dtype, policy=request.policy)
    result = size_model(
        model, build_request(model, min_context(model.architecture.max_context_tokens), words, engine), engine
    )
    return Case(result=result, subject=request.subject, groups=request.groups)


def min_context(longest: int | None) -> int:
    """``CONTEXT_TOKENS``, or the model's own maximum where that is less."""
    return min(CONTEXT_TOKENS, longest or CONTEXT_TOKENS)
