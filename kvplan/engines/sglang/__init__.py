"""SGLang 0.5.23: pools of rows per token with a dummy page each, a pool for windows tied to the full one, state slots.

Read from the wheel: ``sglang/srt/model_executor/pool_configurator.py``, ``mem_cache/kv_cache_configurator.py``,
``mem_cache/memory_pool.py``, ``configs/model_config.py``, ``configs/mamba_utils.py`` and ``arg_groups/``. SGLang sizes
its pools from the memory that is left, never from requests: without ``--kv-memory`` kvplan states the smallest pools
that hold the requests, as ``--max-total-tokens`` would start them. Attention data parallelism (``--attn-dp-size``)
needs no option: each of its replicas is a ``--dp`` replica on fewer ``--tp`` ranks.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from kvplan.core.budget import BudgetRequest, RankBudget
from kvplan.core.engine import (
    SETTING_FLAGS,
    Allocation,
    EngineRequest,
    EngineSettings,
    ModelFacts,
    Stage,
    check_name,
    refuse_parallel,
    refuse_policy,
    refuse_settings,
)
from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.units import round_up
from kvplan.engines.sglang import deepseek_v4, words
from kvplan.engines.sglang.backends import choose_paging
from kvplan.engines.sglang.dtypes import DSA_BACKENDS, resolve_dtype
from kvplan.engines.sglang.fit import rank_budgets, settle_batch
from kvplan.engines.sglang.hardware import Hardware, read_hardware
from kvplan.engines.sglang.layers import Traits, read_traits, repartition
from kvplan.engines.sglang.plan import Options, Plan, chunk_tokens, draft_width, read_stages
from kvplan.engines.sglang.pools import check_longest, window_tokens
from kvplan.engines.sglang.states import STRATEGIES, slots_per_request

_WINDOW_RATIO = Fraction(4, 5)
_SSM_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class SGLang:
    """Options carry the names of SGLang's flags; a ``swa_full_tokens_ratio`` of 0 is SGLang's default for the model.

    ``dsa_backend`` stands for ``--dsa-prefill-backend`` and ``--dsa-decode-backend`` together.
    """

    name: str = "sglang"
    version: str | None = "0.5.23"
    certainty: str = "rule"
    swa_full_tokens_ratio: Fraction = Fraction(0)
    disable_hybrid_swa_memory: bool = False
    mamba_full_memory_ratio: Fraction = Fraction(9, 10)
    mamba_ssm_dtype: str = "auto"
    mamba_radix_cache_strategy: str = "auto"
    dsa_backend: str = "auto"

    def __post_init__(self) -> None:
        """Raise ValueError on options that SGLang refuses."""
        if not 0 <= self.swa_full_tokens_ratio <= 1:
            raise ValueError("swa_full_tokens_ratio must lie in (0, 1]")
        if self.mamba_full_memory_ratio <= 0:
            raise ValueError("mamba_full_memory_ratio must be positive")

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """SGLang's ``--kv-cache-dtype`` as a kvplan format; ``auto`` follows a ModelOpt checkpoint's FP8 cache."""
        self._check_options()
        return resolve_dtype(text, facts, stages, settings, self.dsa_backend)

    def allocate(self, request: EngineRequest) -> Allocation:
        """The smallest pools that hold the request, and the pools of ``kv_memory_bytes``."""
        self._check_options()
        refuse_settings("SGLang", request.settings, SETTING_FLAGS)
        refuse_policy(request, "SGLang", "it has --kv-cache-dtype fp8_e4m3")
        refuse_parallel(request, "SGLang", ("tp", "pp", "dp", "dcp"))
        hardware = read_hardware(request.settings, request.choice.kv_format.key.name)
        traits = self.traits(request)
        _check_request(request, traits)
        if traits.compressed:
            return self._allocate_compressed(request, traits, hardware)
        plan = self.plan(request, traits, hardware)
        answer = plan.answer()
        return replace(
            answer,
            log_line=words.log_line(plan, answer),
            explanation=words.explain(plan, answer),
            reasons=words.reasons(plan),
            notes=words.notes(plan),
        )

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request with SGLang's prefill chunk for the device."""
        return settle_batch(request)

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights, what ``mem_fraction_static`` keeps clear, and the cache; its fraction is ``memory_utilization``."""
        return rank_budgets(request)

    def traits(self, request: EngineRequest) -> Traits:
        """What SGLang's choices depend on."""
        traits = read_traits(request.stages, request.facts, self.disable_hybrid_swa_memory)
        stated = self.mamba_radix_cache_strategy.startswith("extra_buffer")
        paged = stated or request.settings.prefix_caching is False or draft_width(request) > 0
        return replace(traits, paged_states=paged)

    def plan(self, request: EngineRequest, traits: Traits, hardware: Hardware) -> Plan:
        """What sizes the pools of a request that is not DeepSeek-V4's."""
        kv_dtype = request.choice.kv_format.key.name
        paging = choose_paging(request.settings, traits, hardware, kv_dtype)
        options = Options(
            window_ratio=float(self.swa_full_tokens_ratio or _WINDOW_RATIO),
            state_ratio=float(self.mamba_full_memory_ratio),
            per_request=slots_per_request(
                request.settings.prefix_caching is not False, self.mamba_radix_cache_strategy, traits.extra_buffer
            ),
            ssm_dtype=self.mamba_ssm_dtype,
        )
        stages = read_stages(request, traits, hardware, paging, options)
        return Plan(request=request, traits=traits, hardware=hardware, paging=paging, options=options, stages=stages)

    def _allocate_compressed(self, request: EngineRequest, traits: Traits, hardware: Hardware) -> Allocation:
        """DeepSeek-V4."""
        ratio = float(self.swa_full_tokens_ratio) or deepseek_v4.RATIO
        settings, sequences = request.settings, request.sequences
        tokens = sequences * round_up(request.context_tokens, deepseek_v4.PAGE)
        stages = repartition(request)
        pools = [deepseek_v4.read_pools(request, stage, ratio) for stage in stages]
        each = window_tokens(traits.window, deepseek_v4.PAGE, draft_width(request))
        windowed = min(tokens, sequences * each)
        needed = max((pool.need(tokens, windowed, sequences) for pool in pools), key=lambda sizes: sizes.full)
        ranks = tuple(deepseek_v4.allocate_rank(request, stage, pool, needed) for stage, pool in zip(stages, pools))
        answer = Allocation(
            stages=ranks,
            block_tokens=deepseek_v4.PAGE,
            max_num_batched_tokens=chunk_tokens(request, hardware),
            explanation=words.explain_compressed(pools, needed),
            reasons=words.compressed_reasons(ratio),
            notes=words.compressed_notes(hardware, settings, sequences),
        )
        if settings.kv_memory_bytes is None:
            return answer
        memory, running = settings.kv_memory_bytes, settings.max_num_seqs or deepseek_v4.RUNNING
        fits = min((pool.fit(memory, running) for pool in pools), key=lambda sizes: sizes.full)
        check_longest(fits.full, request.max_model_len)
        each = min(request.max_model_len, each)
        return replace(
            answer,
            num_blocks=fits.full // deepseek_v4.PAGE,
            capacity_tokens=fits.full,
            max_concurrency=min(fits.full / request.max_model_len, fits.windowed / each, float(running)),
            log_line=words.compressed_log(pools[0], fits),
        )

    def _check_options(self) -> None:
        check_name("mamba_ssm_dtype", self.mamba_ssm_dtype, _SSM_DTYPES)
        check_name("mamba_radix_cache_strategy", self.mamba_radix_cache_strategy, STRATEGIES)
        check_name("dsa_backend", self.dsa_backend, DSA_BACKENDS)


def _check_request(request: EngineRequest, traits: Traits) -> None:
    """What SGLang does not combine."""
    parallel = request.parallel
    drafted = request.num_draft_layers or request.settings.num_speculative_tokens
    if drafted and parallel.pp > 1:
        raise UnsupportedError(
            "kvplan has no rules for SGLang's drafts over pipeline stages", "leave --pp or --mtp out"
        )
    if parallel.dcp > 1 and (traits.window_pool or traits.recurrent or traits.compressed):
        raise UnsupportedError(
            "SGLang shares a sequence's tokens over ranks (--dcp) for plain pools alone", "leave --dcp out"
        )
    if request.settings.max_num_seqs is not None and request.settings.max_num_seqs < request.sequences:
        raise UsageError(
            f"SGLang with --max-num-seqs {request.settings.max_num_seqs} does not run {request.sequences} at once"
        )


ENGINE = SGLang()
