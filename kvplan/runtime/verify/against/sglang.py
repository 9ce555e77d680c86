"""SGLang, started with dummy weights on a GPU: its pools of rows as it logs them.

Tested with a stand-in that plays its log, not yet with SGLang itself, which was not at hand with a GPU. Its rules are
held to its own code otherwise (``tests/parity/test_sglang.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

from kvplan.core.engine import Engine
from kvplan.core.errors import UnsupportedError
from kvplan.core.request import SizeRequest, SizeResult
from kvplan.core.units import round_up
from kvplan.core.verification import Check
from kvplan.engines.sglang import ENGINE as SGLANG
from kvplan.engines.sglang import SGLang
from kvplan.planning.size import size_model
from kvplan.runtime.verify.device import Progress
from kvplan.runtime.verify.engine_process import Answer, Question, ask
from kvplan.runtime.verify.engine_room import accelerator_of, refuse_ranks, refuse_size
from kvplan.runtime.verify.engine_skeleton import ConfigSkeleton, config_skeleton
from kvplan.runtime.verify.findings import Findings
from kvplan.specs.start_log import parse_start_log

VARIABLE = "KVPLAN_SGLANG_PYTHON"
GROUP = "engine"
_SCRIPT = "start_sglang.py"
_PROBE_SECONDS, _START_SECONDS = 120.0, 600.0
_TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}

TEXT_CLASSES = {
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Mistral3ForConditionalGeneration": "MistralForCausalLM",
}
"""SGLang's class for the text model of a multimodal one."""


def verify(result: SizeResult, python: str, progress: Progress) -> Findings:
    """Start SGLang for the request of ``result``. Raises KvplanError as ``verify_engine`` says, and without a GPU."""
    progress("looking for SGLang")
    probe = _ask(Question(script=_SCRIPT, body={}, python=python, seconds=_PROBE_SECONDS)).body
    if probe.get("device") is None:
        raise UnsupportedError(
            f"SGLang {probe['version']} is started on a GPU, and torch sees none in {python}",
            "leave --against sglang out: allocation and model code run on a CPU too",
        )
    refuse_ranks("SGLang", result.request)
    skeleton = config_skeleton(result.model, TEXT_CLASSES)
    engine = result.rules if isinstance(result.rules, SGLang) else SGLANG
    predicted = _predict(result.request, skeleton, engine, probe["device"])
    free = probe["device"]["free_bytes"] - skeleton.weight_bytes
    refuse_size("the request", predicted.allocated_bytes, free, result.request.context_tokens)
    progress(f"starting SGLang {probe['version']}")
    body = {"arguments": _arguments(predicted)}
    answer = _ask(Question(script=_SCRIPT, body=body, python=python, seconds=_START_SECONDS, config=skeleton.values))
    if "refused" in answer.body:
        words = " ".join(str(answer.body["refused"]).split())[:400]
        raise UnsupportedError(f"SGLang {probe['version']} does not start on the skeleton: {words}")
    where = f"{probe['device']['name']} with {skeleton.num_layers} layers and dummy weights"
    note = f"SGLang {probe['version']} ran on {where}"
    return Findings(checks=tuple(_checks(predicted, answer)), notes=(note, *_rules_note(predicted, probe)))


def _ask(question: Question) -> Answer:
    """The script's answer. Raises UnsupportedError without SGLang."""
    answer = ask(question)
    if answer.body.get("version") is None:
        raise UnsupportedError(
            f"SGLang is not installed in {question.python}: pip install sglang",
            f"name another with --engine-python or {VARIABLE}",
        )
    return answer


def _predict(request: SizeRequest, skeleton: ConfigSkeleton, engine: SGLang, device: Mapping[str, Any]) -> SizeResult:
    """kvplan's smallest pools for the request on this GPU."""
    settings = replace(request.settings, accelerator=accelerator_of(device), kv_memory_bytes=None)
    return size_model(skeleton.model, replace(request, settings=settings), engine)


def _arguments(predicted: SizeResult) -> dict[str, Any]:
    """The arguments of ``sglang.Engine``: pools of just the requests that are asked for."""
    request, settings = predicted.request, predicted.request.settings
    page = predicted.allocation.block_tokens or 1
    name = request.choice.kv_format.key.name
    arguments = {
        "dtype": _TORCH_DTYPES[predicted.model.dtype],
        "kv_cache_dtype": None if name in _TORCH_DTYPES else name,
        "page_size": page,
        "context_length": settings.max_model_len or request.context_tokens,
        "max_running_requests": request.concurrency,
        "max_total_tokens": request.concurrency * round_up(request.context_tokens, page),
        "chunked_prefill_size": settings.max_num_batched_tokens,
        "attention_backend": settings.attention_backend,
        "disable_radix_cache": True if settings.prefix_caching is False else None,
    }
    stated = {key: value for key, value in arguments.items() if value is not None}
    return {**stated, **_engine_arguments(predicted.rules)}


def _engine_arguments(engine: Engine) -> dict[str, Any]:
    """The engine's own options that were set, under the names of SGLang's arguments."""
    set_ones = {
        field.name: getattr(engine, field.name)
        for field in fields(SGLANG)
        if field.name not in ("name", "version", "certainty")
        and getattr(engine, field.name) != getattr(SGLANG, field.name)
    }
    backend = set_ones.pop("dsa_backend", None)
    both = {} if backend is None else {"dsa_prefill_backend": backend, "dsa_decode_backend": backend}
    plain = {name: float(value) if isinstance(value, Fraction) else value for name, value in set_ones.items()}
    return {**plain, **both}


def _checks(predicted: SizeResult, answer: Answer) -> Iterator[Check]:
    """All pools of the rank together, to the rounding of the log."""
    start = parse_start_log(answer.log.splitlines(), "SGLang's log")
    if start.kv_cache_bytes is None:
        raise UnsupportedError("SGLang's log says nothing of its pools", "kvplan reads those of 0.4 to 0.5.23")
    yield Check(
        group=GROUP,
        what="pools of all layers",
        predicted_bytes=predicted.allocation.stages[0].allocated_bytes,
        measured_bytes=start.kv_cache_bytes,
        allowed_bytes=start.tolerance_bytes.get("kv_cache_bytes", 0),
        detail=f"as logged; SGLang found room for {start.capacity_tokens} tokens",
    )


def _rules_note(predicted: SizeResult, probe: Mapping[str, Any]) -> tuple[str, ...]:
    if probe["version"] == predicted.engine_version:
        return ()
    return (f"SGLang {probe['version']} is held against kvplan's rules of {predicted.engine_version}",)
