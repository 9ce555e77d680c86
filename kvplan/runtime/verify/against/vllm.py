"""vLLM, started with dummy weights: the pages of every layer, the pool, and the tokens that it logs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import Engine
from kvplan.core.errors import DoesNotFitError, UnsupportedError
from kvplan.core.geometry import place_layers
from kvplan.core.model import Model
from kvplan.core.request import SizeRequest, SizeResult
from kvplan.core.units import GIB, format_bytes
from kvplan.core.verification import Check
from kvplan.engines import engine_versions, get_engine
from kvplan.engines.vllm import Vllm
from kvplan.engines.vllm.plan import Plan, make_plan
from kvplan.planning.size import engine_request, size_model, split_stages
from kvplan.runtime.verify.device import Progress
from kvplan.runtime.verify.engine_process import Answer, Question, ask
from kvplan.runtime.verify.engine_room import accelerator_of, refuse_ranks, refuse_size, usable_bytes
from kvplan.runtime.verify.engine_skeleton import ConfigSkeleton, config_skeleton
from kvplan.runtime.verify.findings import Findings, layer_words
from kvplan.runtime.verify.host_memory import host_memory
from kvplan.specs.start_log import parse_start_log

VARIABLE = "KVPLAN_VLLM_PYTHON"
GROUP = "engine"
_SCRIPT = "start_vllm.py"
_PROBE_SECONDS, _START_SECONDS = 120.0, 600.0
_LEAST_CACHE_BYTES = GIB
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": None,  # would replace kv_cache_memory_bytes (0.32 platforms/cpu.py:324)
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's figures are then at hand
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # for a function of our own on its workers
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "HF_HUB_OFFLINE": "1",
}
_TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_CPU_BLOCK_TOKENS, _CPU_LATENT_BLOCK_TOKENS, _CPU_COMPRESSED_BLOCK_TOKENS = 128, 16, 256
"""Blocks of vLLM's CPU build (0.32 ``platforms/cpu.py:274-293``): kvplan has no rules of its kernels."""

_CPU_BATCHED_TOKENS = 2048
_CPU_STAND_IN = Accelerator(name="a CPU", vendor="nvidia", memory_bytes=64 * GIB, compute_capability=(8, 9))
"""Ada's kernels take any multiple of 16 tokens in a block, and FP8, as the CPU's do."""

TEXT_CLASSES = {
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Llama4ForConditionalGeneration": "Llama4ForCausalLM",
    "Mistral3ForConditionalGeneration": "MistralForCausalLM",
    "Gemma4ForConditionalGeneration": "Gemma4ForCausalLM",
    "Lfm2VlForConditionalGeneration": "Lfm2ForCausalLM",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2ForCausalLM",
    "Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeForCausalLM",
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3MoeForCausalLM",
}
"""vLLM's class for the text model of a multimodal one, which would want processors of images too."""

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class _Start:
    """One start: what is predicted for it, and by which rules; ``block_tokens`` is what vLLM is told, if anything."""

    skeleton: ConfigSkeleton
    request: SizeRequest
    engine: Vllm
    kv_memory_bytes: int
    block_tokens: int | None = None

    @property
    def result(self) -> SizeResult:
        """kvplan's prediction."""
        settings = replace(self.request.settings, kv_memory_bytes=self.kv_memory_bytes)
        return size_model(self.skeleton.model, replace(self.request, settings=settings), self.engine)

    def plan(self) -> Plan:
        """The pages behind it."""
        layers = self.skeleton.model.architecture.layers
        stages = split_stages(place_layers(layers, self.request.choice.kv_format), 1, len(layers))
        asked = engine_request(self.skeleton.model, self.request, stages)
        return make_plan(asked, self.engine.run_of(asked))


def verify(result: SizeResult, python: str, progress: Progress) -> Findings:
    """Start vLLM for the request of ``result``. Raises KvplanError as ``verify_engine`` says."""
    refuse_ranks("vLLM", result.request)
    progress("looking for vLLM")
    probe = _ask(Question(script=_SCRIPT, body={}, python=python, seconds=_PROBE_SECONDS)).body
    engine, notes = _rules(probe, result.rules)
    skeleton = config_skeleton(result.model, TEXT_CLASSES)
    request = _request(result.request, skeleton.model, probe["device"])
    stated = result.request.settings.block_tokens
    start = _Start(skeleton=skeleton, request=request, engine=engine, kv_memory_bytes=0, block_tokens=stated)
    start = replace(start, kv_memory_bytes=_cache_bytes(start, probe["device"]))
    progress(f"starting vLLM {probe['version']}")
    answer = _ask(_question(start, python, probe["device"]))
    if "refused" in answer.body:
        words = " ".join(str(answer.body["refused"]).split())[:400]
        raise UnsupportedError(f"vLLM {probe['version']} does not start on the skeleton: {words}", _cause(answer.log))
    start = _as_resolved(start, answer.body)
    return Findings(checks=tuple(_checks(start, answer)), notes=(*notes, _how(start, probe)))


def _ask(question: Question) -> Answer:
    """The script's answer. Raises UnsupportedError without vLLM."""
    answer = ask(question)
    if answer.body.get("version") is None:
        raise UnsupportedError(
            f"vLLM is not installed in {question.python}: pip install vllm",
            f"name another with --engine-python or {VARIABLE}",
        )
    return answer


def _rules(probe: Mapping[str, Any], asked: Engine) -> tuple[Vllm, tuple[str, ...]]:
    """kvplan's rules of the release that is installed, or the nearest older ones, with a note.

    Options are those of the engine that was ``asked`` for, if it is vLLM; what kernels are there, vLLM itself tells.
    """
    installed = _numbers(probe["version"])
    known = sorted(engine_versions("vllm"), key=_numbers)
    older = [version for version in known if _numbers(version)[:2] <= installed[:2]]
    chosen = (older or known)[-1 if older else 0]
    engine = get_engine(f"vllm@{chosen}")
    assert isinstance(engine, Vllm)
    engine = replace(engine, flashinfer=bool(probe["device"].get("flashinfer")))
    if isinstance(asked, Vllm):
        names = ("mamba_cache_dtype", "mamba_ssm_cache_dtype")
        engine = replace(engine, **{name: getattr(asked, name) for name in names})
    if _numbers(chosen)[:2] == installed[:2]:
        return engine, ()
    return engine, (f"vLLM {probe['version']} is held against kvplan's rules of {chosen}",)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def _request(request: SizeRequest, model: Model, device: Mapping[str, Any]) -> SizeRequest:
    """The request for the engine's own device."""
    settings = replace(request.settings, max_model_len=request.settings.max_model_len or request.context_tokens)
    if device["kind"] != "cpu":
        return replace(request, settings=replace(settings, accelerator=accelerator_of(device)))
    batched = settings.max_num_batched_tokens or _CPU_BATCHED_TOKENS
    block = _cpu_block_tokens(model, settings.block_tokens)
    settings = replace(settings, accelerator=_CPU_STAND_IN, max_num_batched_tokens=batched, block_tokens=block)
    return replace(request, settings=settings)


def _cpu_block_tokens(model: Model, stated: int | None) -> int:
    """Tokens in a block of the CPU build, which overrides what is ``stated`` for latents and compressed streams."""
    kinds = {kind.kind for layer in model.architecture.layers for kind in layer}
    if "compressed_stream" in kinds:
        return _CPU_COMPRESSED_BLOCK_TOKENS
    return _CPU_LATENT_BLOCK_TOKENS if "latent" in kinds else stated or _CPU_BLOCK_TOKENS


def _cache_bytes(start: _Start, device: Mapping[str, Any]) -> int:
    """The memory of the cache: as set, or 1 GiB, or what one request needs. Raises DoesNotFitError."""
    stated = start.request.settings.kv_memory_bytes
    longest = start.request.settings.max_model_len or start.request.context_tokens
    request = replace(start.request, context_tokens=longest, concurrency=1)
    request = replace(request, settings=replace(request.settings, kv_memory_bytes=None))
    rank = size_model(start.skeleton.model, request, start.engine).allocation.stages[0]
    if not rank.bytes_per_block:
        raise UnsupportedError(f"{start.skeleton.model.name} has no cache in vLLM")
    needed = max(_LEAST_CACHE_BYTES, rank.allocated_bytes + 2 * rank.bytes_per_block)
    free = host_memory()[1] if device["kind"] == "cpu" else int(device["free_bytes"])
    free -= start.skeleton.weight_bytes
    if stated is None:
        refuse_size(f"a request of {longest} tokens", needed, free, longest)
    elif stated > usable_bytes(free):
        raise DoesNotFitError(
            f"--kv-memory {format_bytes(stated)}: {format_bytes(usable_bytes(free))} are free for it",
            "leave --kv-memory out: vLLM is then started with what the request needs",
        )
    return stated or needed


def _question(start: _Start, python: str, device: Mapping[str, Any]) -> Question:
    """The arguments of ``vllm.LLM``."""
    settings, kv_format, run = start.request.settings, start.request.choice.kv_format, start.plan().run
    skipped = [*map(str, sorted(kv_format.native_layers)), *(["sliding_window"] if kv_format.native_windows else [])]
    arguments = {
        "dtype": _TORCH_DTYPES[start.skeleton.model.dtype],
        "kv_cache_dtype": run.dtype,
        "kv_cache_dtype_skip_layers": skipped or None,
        "kv_cache_memory_bytes": start.kv_memory_bytes,
        "max_model_len": settings.max_model_len,
        "max_num_batched_tokens": run.batched_tokens,
        "max_num_seqs": settings.max_num_seqs,
        "block_size": start.block_tokens,
        "enable_prefix_caching": settings.prefix_caching,
        "mamba_cache_dtype": start.engine.mamba_cache_dtype,
        "mamba_ssm_cache_dtype": start.engine.mamba_ssm_cache_dtype,
        "attention_backend": settings.attention_backend,
        "gpu_memory_utilization": _utilization(device),
    }
    return Question(
        script=_SCRIPT,
        body={"arguments": {name: value for name, value in arguments.items() if value not in (None, "auto")}},
        python=python,
        seconds=_START_SECONDS,
        environment=_ENVIRONMENT,
        config=start.skeleton.values,
    )


def _utilization(device: Mapping[str, Any]) -> float | None:
    """The share of a GPU that is free for vLLM, in hundredths.

    With ``kv_cache_memory_bytes`` it sizes nothing, but vLLM does not start where less than that share is free
    (0.25.1 ``v1/worker/utils.py:414``), and its default is nearly all of the GPU.
    """
    if device["kind"] == "cpu":
        return None
    return max(1, 100 * usable_bytes(int(device["free_bytes"])) // int(device["memory_bytes"])) / 100


def _as_resolved(start: _Start, answer: Mapping[str, Any]) -> _Start:
    """The start with the options that vLLM resolved from its defaults: they are settings, no cache sizes."""
    names = ("async_scheduling", "mamba_cache_dtype", "mamba_ssm_cache_dtype")
    settings = replace(
        start.request.settings,
        max_num_batched_tokens=answer["max_num_batched_tokens"],
        prefix_caching=answer["prefix_caching"],
    )
    return replace(
        start,
        request=replace(start.request, settings=settings),
        engine=replace(start.engine, **{name: answer[name] for name in names}),
    )


def _checks(start: _Start, answer: Answer) -> Iterator[Check]:
    """Each layer's page, a block of all layers, the pool, and the logged tokens."""
    body, result = answer.body, start.result
    predicted_blocks, block_bytes = result.allocation.num_blocks or 0, result.bytes_per_block or 0
    yield from _page_checks(start, body["pages"])
    (rank,) = body["ranks"]
    yield Check(
        group=GROUP,
        what="block of all layers",
        predicted_bytes=block_bytes,
        measured_bytes=rank["storage_bytes"] // body["num_blocks"],
        detail=f"vLLM's cache tensors hold {rank['storage_bytes']:,} B in {body['num_blocks']:,} blocks",
    )
    yield Check(
        group=GROUP,
        what="pool",
        predicted_bytes=predicted_blocks * block_bytes,
        measured_bytes=rank["storage_bytes"],
        detail=f"{predicted_blocks:,} blocks predicted, {body['num_blocks']:,} of {body['block_tokens']} tokens found",
    )
    yield from _capacity_check(result, answer.log)


def _capacity_check(result: SizeResult, log: str) -> Iterator[Check]:
    """The tokens that vLLM logs, priced as a request of the longest length is."""
    logged = parse_start_log(log.splitlines(), "vLLM's log").capacity_tokens
    predicted = result.allocation.capacity_tokens
    if logged is None or predicted is None:
        return
    rank = result.allocation.stages[0]
    per_token = max(1, rank.sequence_bytes // result.request.context_tokens)
    yield Check(
        group=GROUP,
        what="capacity",
        predicted_bytes=predicted * per_token,
        measured_bytes=logged * per_token,
        detail=f"{predicted:,} tokens predicted, {logged:,} logged, at {per_token:,} B a token",
    )


def _page_checks(start: _Start, pages: Mapping[str, int]) -> Iterator[Check]:
    """Layers alike in kinds and in both figures together; a layer that differs stands alone."""
    measured: dict[int, int] = {}
    for name, size in pages.items():
        match = _LAYER.search(f".{name}.")
        index = int(match[1]) if match else -1
        measured[index] = measured.get(index, 0) + size
    predicted = predicted_pages(start.plan(), start.skeleton.model, start.request)
    alike: dict[tuple[str, int, int], list[int]] = {}
    for index in sorted({*measured, *predicted}):
        words, size = predicted.get(index, ("no layer of the model", 0))
        if size or measured.get(index):
            alike.setdefault((words, size, measured.get(index, 0)), []).append(index)
    for (words, size, found), indices in alike.items():
        yield Check(
            group=GROUP,
            what=f"{layer_words(indices)} {words}",
            predicted_bytes=size,
            measured_bytes=found,
            detail="the page that a block takes in one layer",
        )


def predicted_pages(plan: Plan, model: Model, request: SizeRequest) -> dict[int, tuple[str, int]]:
    """Each layer's kinds in words and the bytes of its pages: what a block takes in it."""
    sizes: dict[int, int] = {}
    for group in plan.groups:
        for layer in group.layers:
            sizes.setdefault(layer.item, layer.spec.page_bytes)
    position = {(item.kind, item.kv_format): index for index, item in reversed(list(enumerate(plan.items)))}
    placed = place_layers(model.architecture.layers, request.choice.kv_format)
    return {
        index: (
            " + ".join(item.kind.kind for item in layer),
            sum(sizes.get(position[item.kind, item.kv_format], 0) for item in layer),
        )
        for index, layer in enumerate(placed)
    }


def _how(start: _Start, probe: Mapping[str, Any]) -> str:
    layers = "all" if start.skeleton.whole else f"the first {start.skeleton.num_layers}"
    where = "the CPU" if probe["device"]["kind"] == "cpu" else probe["device"]["name"]
    memory = format_bytes(start.kv_memory_bytes)
    return f"vLLM {probe['version']} ran on {where} with {layers} layers, dummy weights and {memory} of cache"


def _cause(log: str) -> str | None:
    """The package that vLLM's model classes miss, which its last word does not tell."""
    missing = re.search(r"ModuleNotFoundError: (.*)", log)
    return f"its log says: {missing[1]}" if missing else None
