"""vLLM: paged blocks in groups of layers that share a block table, every group with the same bytes per block.

The files follow vLLM's own order: the cache dtype (``cache_dtypes``), the attention backend of each layer
(``backends``), the block size (``block_size``), each layer's spec (``specs``), groups (``groups``) and what a memory
holds (``capacity``). ``rules`` holds what differs between releases, ``families`` what only the model class knows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from kvplan.core.budget import BudgetRequest, RankBudget
from kvplan.core.engine import (
    Allocation,
    EngineRequest,
    EngineSettings,
    ModelFacts,
    Stage,
    refuse_parallel,
    refuse_policy,
    refuse_settings,
)
from kvplan.core.frozen import dataclass
from kvplan.core.workload import BlockTerm
from kvplan.engines.vllm.backends import forced_backend
from kvplan.engines.vllm.block_terms import block_term
from kvplan.engines.vllm.budget import rank_budgets, start_batch
from kvplan.engines.vllm.cache_dtypes import run_word, stored_format
from kvplan.engines.vllm.capacity import capacity
from kvplan.engines.vllm.explain import explain, notes, reasons
from kvplan.engines.vllm.families import quirks_of
from kvplan.engines.vllm.plan import make_plan, rank_allocation
from kvplan.engines.vllm.refusals import refuse
from kvplan.engines.vllm.rules import V0_25, V0_32, V0_33, Rules
from kvplan.engines.vllm.run import Run, batched_tokens, device_of, drafted_tokens, prefix_caching, run_traits

SETTINGS = (
    "accelerator",
    "kv_memory_bytes",
    "block_tokens",
    "attention_backend",
    "prefix_caching",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "num_speculative_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    """One release of vLLM. Options: ``flashinfer`` (its CUDA wheel depends on the package), ``async_scheduling``
    (vLLM's default; off in single-process CPU starts), and ``mamba_ssm_cache_dtype`` and ``mamba_cache_dtype``
    (``float32``, ``bfloat16``, ``float16``; ``auto`` is the model's own).
    """

    name: str = "vllm"
    version: str | None = V0_33.version
    certainty: str = "rule"
    rules: Rules = V0_33
    flashinfer: bool = True
    async_scheduling: bool = True
    mamba_ssm_cache_dtype: str = "auto"
    mamba_cache_dtype: str = "auto"
    fixed_options: ClassVar[tuple[str, ...]] = ("rules",)

    def __post_init__(self) -> None:
        """Raise ValueError on a state dtype that vLLM does not have."""
        for name in ("mamba_ssm_cache_dtype", "mamba_cache_dtype"):
            if getattr(self, name) not in ("auto", "float32", "float16", "bfloat16"):
                raise ValueError(f"{name} must be auto, float32, float16 or bfloat16, not {getattr(self, name)!r}")

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """The format of vLLM's own word; ``auto`` follows the checkpoint's scheme and the backend."""
        device = device_of(settings.accelerator, self.flashinfer)
        return stored_format(text, facts, stages, settings, self.rules, device)

    def allocate(self, request: EngineRequest) -> Allocation:
        """Blocks of all sequences and the null block on each rank, and what ``kv_memory_bytes`` hold."""
        self._refuse(request)
        run = self.run_of(request)
        plan = make_plan(request, run)
        held = None
        if request.settings.kv_memory_bytes is not None:
            held = capacity(plan.groups, plan.block_bytes, request.settings.kv_memory_bytes, run)
        return Allocation(
            stages=tuple(rank_allocation(plan, stage, request) for stage in range(len(request.stages))),
            block_tokens=plan.alignment.block_tokens,
            max_num_batched_tokens=run.batched_tokens,
            num_blocks=held.num_blocks if held else None,
            capacity_tokens=held.tokens if held else None,
            max_concurrency=held.max_concurrency if held else None,
            log_line=held.log_line if held else None,
            explanation=explain(plan, request),
            reasons=reasons(plan, request),
            notes=notes(plan, request),
        )

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request with the batch that vLLM resolves for its device and usage."""
        batch = start_batch(request, self.rules)
        settings = replace(
            request.allocation.settings, max_num_batched_tokens=batch.tokens, max_num_seqs=batch.requests
        )
        return replace(request, allocation=replace(request.allocation, settings=settings))

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights, overhead and what is left for the cache on the fullest rank of each stage."""
        plan = make_plan(request.allocation, self.run_of(request.allocation))
        return rank_budgets(request, self.rules, self.flashinfer, plan.alignment.block_tokens)

    def block_terms(self, request: EngineRequest) -> tuple[BlockTerm, ...]:
        """How many blocks a request takes as it grows, one term for each layer group."""
        run = self.run_of(request)
        return tuple(block_term(group, run) for group in make_plan(request, run).groups)

    def _refuse(self, request: EngineRequest) -> None:
        refuse_settings("vLLM", request.settings, SETTINGS)
        refuse_policy(request, "vLLM", "leave --policy out, or choose a smaller --kv-dtype")
        refuse_parallel(request, "vLLM", ("tp", "pp", "dp", "dcp"))
        refuse(request, run_traits(request.stages, request.facts), quirks_of(request.facts), self.rules)

    def run_of(self, request: EngineRequest) -> Run:
        """The options of a request as vLLM resolves them."""
        settings, length = request.settings, request.max_model_len
        traits = run_traits(request.stages, request.facts)
        device = device_of(settings.accelerator, self.flashinfer)
        batched = batched_tokens(settings, length, self.rules)
        batches = request.parallel.pp + self.async_scheduling if self.rules.counts_batches_in_flight else 1
        return Run(
            rules=self.rules,
            device=device,
            quirks=quirks_of(request.facts),
            traits=traits,
            dtype=run_word(request.choice, self.rules, device),
            parallel=request.parallel,
            num_heads=request.facts.num_heads or 1,
            user_block_tokens=settings.block_tokens,
            user_backend=forced_backend(settings.attention_backend, traits, quirks_of(request.facts), device),
            prefix_caching=prefix_caching(settings, traits, self.rules),
            num_speculative_tokens=drafted_tokens(request),
            in_flight_tokens=batches * batched,
            batched_tokens=batched,
            max_model_len=length,
            state_dtype=self.mamba_ssm_cache_dtype,
            conv_dtype=self.mamba_cache_dtype,
        )


ENGINE = Vllm()
VERSIONS = {
    "0.25": Vllm(version=V0_25.version, rules=V0_25),
    "0.32": Vllm(version=V0_32.version, rules=V0_32),
    "0.33": ENGINE,
}
