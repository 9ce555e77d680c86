"""The profiling batch that vLLM runs before it sizes the cache: how large it is, and who runs it.

Read from vLLM 0.25.1: ``v1/worker/gpu_worker.py:431`` (``determine_available_memory``), ``engine/arg_utils.py:2397``
(batch defaults), ``config/vllm.py:519`` (which runner) and ``config/vllm.py:1669`` (sizes of CUDA graphs).
"""

from __future__ import annotations

from typing import NamedTuple

from kvplan.core.attention import HeadedKind, Latent, LayerKind
from kvplan.core.engine import EngineRequest, EngineSettings, ModelFacts
from kvplan.core.errors import UsageError, near_hint
from kvplan.core.frozen import dataclass
from kvplan.core.recurrent import RecurrentKind, StateBuffer
from kvplan.core.units import MIB, cdiv, round_up
from kvplan.core.widths import Widths
from kvplan.engines.vllm.rules import Rules
from kvplan.engines.vllm.run import Device, batched_tokens, device_of

SERVER, OFFLINE = "serve", "llm"
USAGES = (SERVER, OFFLINE)
"""``vllm serve``, and the ``LLM`` class, whose batches are larger."""

_OFFLINE_BATCH = {2048: 8192, 8192: 16384, 16384: 16384}
"""``max_num_batched_tokens`` of the ``LLM`` class by that of the server on the same device."""

_SMALL_BATCH = 2048
"""The server's batch on devices below 70 GiB and the A100, which run 256 requests at once instead of 1024."""

_SECOND_RUNNER_CLASSES = ("DeepseekV2ForCausalLM", "Qwen2MoeForCausalLM", "GraniteMoeForCausalLM")
"""Mixtures of experts that 0.25 gives to the second runner (``config/vllm.py:68``)."""

_GRAPH_TOKENS = {"gpt_oss": 1024}
"""Largest CUDA graph where the model class raises it (``model_executor/models/config.py:371``); 512 elsewhere."""

_MULTIPROCESSORS = {8: 108, 9: 132, 10: 148}
"""Of A100, H100 or H200, and B200, by compute capability: the sampler's top-k kernel has a row for each."""


class Batch(NamedTuple):
    """Limits of one step: tokens, and requests."""

    tokens: int
    requests: int


def batch_limits(settings: EngineSettings, max_model_len: int, rules: Rules, usage: str) -> Batch:
    """``max_num_batched_tokens`` and ``max_num_seqs`` as vLLM resolves them for a usage. Raises UsageError."""
    if usage not in USAGES:
        raise UsageError(f"unknown usage {usage!r} of vLLM", near_hint(usage, USAGES))
    default = batched_tokens(EngineSettings(accelerator=settings.accelerator), max_model_len << 20, rules)
    requests = settings.max_num_seqs or (256 if default == _SMALL_BATCH else 1024)
    if settings.max_num_batched_tokens is not None:
        tokens = settings.max_num_batched_tokens
    else:
        tokens = min(_OFFLINE_BATCH[default] if usage == OFFLINE else default, requests * max_model_len)
    return Batch(tokens, requests if settings.max_num_seqs else min(requests, tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRun:
    """One rank of a pipeline stage, and the batch that it is profiled with.

    ``layers`` are the stage's, each with the kinds it keeps; ``embeds`` and ``samples`` say whether the stage has the
    embedding and the output head. ``weight_format`` is kvplan's name for the weights' format; None for 16 bits.
    ``block_tokens`` is the block size of the cache.
    """

    rules: Rules
    device: Device
    facts: ModelFacts
    widths: Widths
    layers: tuple[tuple[LayerKind, ...], ...]
    batch: Batch
    max_model_len: int
    tp: int = 1
    dp: int = 1
    expert_parallel: bool = False
    eager: bool = False
    block_tokens: int = 16
    num_speculative_tokens: int = 0
    weight_format: str | None = None
    embeds: bool = True
    samples: bool = True

    @property
    def hidden(self) -> int:
        """Width of the residual stream; every rank holds it whole."""
        return self.facts.hidden_size

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return self.batch.tokens

    @property
    def requests(self) -> int:
        """Requests of the batch, each with a row of logits."""
        return min(self.batch.requests, self.batch.tokens)

    @property
    def heads(self) -> int:
        """Query heads of one rank."""
        return cdiv(self.facts.num_heads or 1, self.tp)

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The distinct kinds of the stage's layers, in order of first appearance."""
        return tuple(dict.fromkeys(kind for layer in self.layers for kind in layer))

    @property
    def sparse(self) -> bool:
        """Whether the model has routed experts."""
        return self.widths.num_experts > 0

    @property
    def sixteen_bit_weights(self) -> bool:
        """Whether weights are not quantized, as in all start-ups but gpt-oss that were measured."""
        return self.weight_format in (None, "bf16", "fp16")

    @property
    def second_runner(self) -> bool:
        """Whether the second model runner runs it (0.25 ``config/vllm.py:557``): dense models without state.

        0.32 runs everything on it (``config/vllm.py:703``). A mixture whose class is not known is taken for one of
        the many that run on the first.
        """
        if self.rules.second_runner_runs_all:
            return True
        recurrent = any(isinstance(kind, RecurrentKind) and not isinstance(kind, StateBuffer) for kind in self.kinds)
        attends = any(isinstance(kind, (HeadedKind, Latent)) for kind in self.kinds)
        if recurrent or not attends:
            return False
        return not self.sparse or self.facts.architecture_class in _SECOND_RUNNER_CLASSES

    @property
    def rank_vocab(self) -> int:
        """Rows of one rank's embedding: padded to 64 (``layers/vocab_parallel_embedding.py``)."""
        return round_up(self.widths.vocab_size, 64 * self.tp) // self.tp

    @property
    def library_workspace_bytes(self) -> int:
        """cuBLAS's workspace: 32 MiB on Hopper and later, 8 MiB before (measured: 33,554,432 B stay allocated)."""
        return (32 if self.device.major >= 9 else 8) * MIB

    @property
    def multiprocessors(self) -> int:
        """Programs of the sampler's top-k kernel."""
        return _MULTIPROCESSORS.get(self.device.major, _MULTIPROCESSORS[9])

    @property
    def graph_sizes(self) -> tuple[int, ...]:
        """Batch sizes for which CUDA graphs are captured: 1, 2, 4, by 8 up to 256, by 16 from there."""
        if self.eager:
            return ()
        decoded = self.batch.requests * (1 + self.num_speculative_tokens) * 2
        largest = min(self.tokens, _GRAPH_TOKENS.get(self.facts.family, min(decoded, 512)))
        sizes = {*(1, 2, 4), *range(8, 256, 8), *range(256, largest + 1, 16), self.tokens}
        return tuple(sorted(size for size in sizes if size <= largest))


def profile_run(
    request: EngineRequest,
    widths: Widths,
    rules: Rules,
    *,
    stage: int = 0,
    usage: str = SERVER,
    eager: bool = False,
    weight_format: str | None = None,
    expert_parallel: bool = False,
) -> ProfileRun:
    """The profiling batch of one rank of a stage. Raises UsageError for an unknown usage."""
    settings = request.settings
    return ProfileRun(
        rules=rules,
        device=device_of(settings.accelerator, flashinfer=True),
        facts=request.facts,
        widths=widths,
        layers=tuple(tuple(item.kind for item in layer) for layer in request.stages[stage]),
        batch=batch_limits(settings, request.max_model_len, rules, usage),
        max_model_len=request.max_model_len,
        tp=request.parallel.tp,
        dp=request.parallel.dp,
        expert_parallel=expert_parallel,
        eager=eager,
        block_tokens=settings.block_tokens or 16,
        num_speculative_tokens=settings.num_speculative_tokens or 0,
        weight_format=weight_format,
        embeds=stage == 0,
        samples=stage == len(request.stages) - 1,
    )
