"""Verifies many models, formats and frontiers on this machine's GPU, and writes what ``kvplan verify --report`` writes.

    python tests/gpu/verify_many.py --out FOLDER [--models 3] [--gib 0.25]

``allocation.json``: real caches of 32 models over all kinds of layers, each in five formats, those of a model of every
other family in two, and the cache of a 70B model at 131,072 tokens with as many requests as the device holds.
``frontier.json``: the largest number of requests that ``fit`` predicts, and the next block. ``model_code.json``:
transformers' own code of each architecture. ``engine.json``: vLLM itself, started on skeletons, where
``KVPLAN_VLLM_PYTHON`` names an interpreter that has it. ``ranks.json``: two processes that torchrun starts, each with
its own shard, joined by NCCL where there are two GPUs. Stored in ``tests/vectors/verify_DEVICE``, they are read by
``test_stored_reports.py``, and ``stored_reports.py`` prints the README's table of them. A CPU runs it, too, in what
memory it has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from kvplan.core.errors import KvplanError
from kvplan.core.units import GIB
from kvplan.core.verification import Verification
from kvplan.engines import get_engine
from kvplan.planning.fit import fit_model
from kvplan.planning.fit_request import FitWords, build_fit_request
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model
from kvplan.reports.to_json import render_success
from kvplan.reports.verify_json import verify_fields
from kvplan.runtime.verify.device import choose_device, device_facts, versions
from kvplan.runtime.verify.model_code import CodeOptions, verify_many
from kvplan.runtime.verify.run import Case, Place, verify_cases
from kvplan.specs.reference import resolve_model
from kvplan.specs.verify_report import read_verification

FORMATS = ("auto", "fp8", "int8", "int4", "kivi2")
MODELS = (
    *("llama-3.1-8b", "llama-3.1-70b", "llama-2-7b", "qwen2.5-7b", "qwen3-30b-a3b", "mistral-7b-v0.1", "mixtral-8x7b"),
    *("gemma-2-9b", "gemma-3-27b", "gpt-oss-20b", "phi-3-mini-4k", "falcon-7b", "bloom-7b1", "gpt-neox-20b"),
    *("deepseek-v2-lite", "deepseek-v3", "llama-4-scout", "glm-4-9b", "command-r-plus-104b", "olmo-2-7b"),
    *("mamba-2.8b", "falcon-mamba-7b", "jamba-v0.1", "qwen3-next-80b-a3b", "lfm2-8b-a1b", "granite-4.0-h-micro"),
    *("starcoder2-15b", "nemotron-h-4b", "kimi-linear-48b-a3b", "bart-large-cnn", "minimax-m2.5", "smollm2-360m"),
)
OTHER_FORMATS = ("auto", "fp8")
OTHER_FAMILIES = (
    *("afm-4.5b", "t5-v1.1-xxl", "gpt-j-6b", "dbrx", "deepseek-moe-16b", "deepseek-v4-flash", "ernie-4.5-vl-28b-a3b"),
    *("exaone-4.0-32b", "gemma-4-31b-assistant", "glm-4.6v-flash", "gpt2", "hunyuan-7b", "hymba-1.5b", "internvl3-8b"),
    *("jet-nemotron-2b", "kimi-k2.5", "laguna-xs.2", "lfm2-vl-1.6b", "llama-3.2-11b-vision", "pixtral-12b"),
    *("mamba2attn-2.7b", "mimo-v2-flash", "minimax-m1", "minimax-m3", "mpt-7b", "nemotron-mini-4b"),
    *("nemotron-super-49b", "openelm-3b", "opt-6.7b", "stablelm-3b", "qwen3-vl-4b", "recurrentgemma-2b"),
    *("rwkv-4-169m", "trinity-mini", "whisper-large-v3"),
)
"""One of each family that ``MODELS`` has not."""

CONTEXT_TOKENS, MOST_GIB, MOST_SEQUENCES = 16411, 6.0, 8
"""A prime, so that nothing divides it; as many sequences as stay below the memory."""

FRONTIERS = (
    FitWords(model="llama-3.1-70b", gpu="h200", ctx="128k", concurrency=1, weights="fp8", kv_dtype="fp8"),
    FitWords(model="llama-3.1-8b", gpu="h200", ctx="32k", concurrency=1),
    FitWords(model="qwen3-30b-a3b", gpu="h200", ctx="32k", concurrency=1, kv_dtype="fp8"),
    FitWords(model="gemma-3-27b", gpu="h200", ctx="32k", concurrency=1),
    FitWords(model="deepseek-v2-lite", gpu="h200", ctx="64k", concurrency=1),
    FitWords(model="gpt-oss-20b", gpu="h200", ctx="64k", concurrency=1, kv_dtype="int8_per_token_head"),
)
CODE = (
    *("llama-3.2-1b", "qwen2.5-7b", "qwen3-0.6b", "qwen3-30b-a3b", "mistral-7b-v0.1", "mixtral-8x7b", "gemma-2-9b"),
    *("gemma-3-1b", "gpt-oss-20b", "phi-3-mini-4k", "falcon-7b", "olmo-2-7b", "starcoder2-15b", "glm-4-9b"),
    *("deepseek-v2-lite", "deepseek-v3", "llama-4-scout", "mamba-130m", "falcon-mamba-7b", "qwen3-next-80b-a3b"),
    *("lfm2-8b-a1b", "smollm2-360m", "granite-4.0-h-micro", "command-r7b", "opt-125m", "bart-base"),
)
ENGINE = (
    *(("llama-3.1-8b", "auto"), ("llama-3.1-8b", "fp8"), ("gemma-3-27b", "auto"), ("deepseek-v2-lite", "auto")),
    *(("gpt-oss-20b", "auto"), ("qwen3-next-80b-a3b", "auto"), ("falcon-mamba-7b", "auto"), ("jamba-v0.1", "auto")),
    *(("qwen3-30b-a3b", "fp8"), ("llama-4-scout", "auto"), ("lfm2-8b-a1b", "auto"), ("mistral-7b-v0.1", "int8")),
)
ENGINE_CONTEXT = "32k"
RANKS = (
    "llama-3.1-70b --tp 2 --kv-dtype fp8 --ctx 128k --concurrency 11",
    "gemma-3-1b --tp 2 --ctx 32k --concurrency 8",
    "deepseek-v2-lite --tp 2 --ctx 32k --concurrency 4",
    "gemma-3-27b --pp 2 --ctx 32k --concurrency 4",
)
"""Eight heads in two halves and eleven requests that fill the device; one head, copied; a latent on both; stages."""


def allocations(models: tuple[str, ...], others: tuple[str, ...], most_bytes: int) -> Iterator[Case]:
    """Every model in every format that can hold it; then 70B at 128k, with as many requests as the device holds."""
    wanted = [(name, text) for name in models for text in FORMATS]
    wanted += [(name, text) for name in others for text in OTHER_FORMATS]
    for name, text in wanted:
        try:
            yield _allocation(name, text, CONTEXT_TOKENS, most_bytes, MOST_SEQUENCES)
        except KvplanError as error:
            print(f"{name} {text}: {error.message}", file=sys.stderr)
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        yield _allocation("llama-3.1-70b", "fp8", 131072, int(free * 0.95), MOST_SEQUENCES)


def _allocation(name: str, text: str, context: int, most_bytes: int, most: int) -> Case:
    model, engine = resolve_model(name), get_engine("none")
    longest = model.architecture.max_context_tokens or context
    request = build_request(model, min(context, longest), RequestWords(kv_dtype=text), engine)
    one = size_model(model, request, engine)
    sequences = max(1, min(most, most_bytes // max(1, one.geometry_bytes)))
    result = size_model(model, replace(request, concurrency=sequences), engine)
    return Case(result=result, subject=f"{name} {text} {min(context, longest)} x {sequences}", groups=("allocation",))


def frontiers() -> Iterator[Case]:
    """Placements whose largest number of requests is looked for."""
    for words in FRONTIERS:
        model, engine = resolve_model(str(words.model)), get_engine(words.engine)
        fit = fit_model(model, build_fit_request(model, words, engine), engine)
        result = size_model(model, fit.request.size, engine)
        yield Case(result=result, subject=f"{words.model} {words.kv_dtype} {words.ctx}", groups=("frontier",), fit=fit)


def model_code(device: torch.device, names: tuple[str, ...], seconds: float) -> Verification:
    """transformers' code of each architecture, with its own cache and a compressed one; none after ``seconds``."""
    facts = device_facts(device)
    found, started = [], time.monotonic()
    for entry in verify_many(names, device, CodeOptions(compressions=(("int8", "none"),), batches=(2,))):
        found.append(entry)
        if time.monotonic() - started > seconds:
            break
    return Verification(
        device=facts,
        request={"models": ",".join(entry.model for entry in found)},
        checks=tuple(replace(check, subject=entry.model) for entry in found for check in entry.checks),
        versions=versions(),
        skipped=tuple(
            f"{entry.model}: {line.removeprefix(f'{entry.model}: ')}" for entry in found for line in entry.skipped
        ),
    )


def engine_starts(device: torch.device, names: tuple[tuple[str, str], ...], seconds: float) -> Verification:
    """vLLM's own figures of each model; none is started after ``seconds``."""
    found, started = [], time.monotonic()
    for name, text in names:
        if time.monotonic() - started > seconds:
            print(f"{name} {text}: not started, for want of time", file=sys.stderr)
            continue
        model, engine = resolve_model(name), get_engine("vllm")
        request = build_request(model, ENGINE_CONTEXT, RequestWords(kv_dtype=text), engine)
        result = size_model(model, request, engine)
        case = Case(result=result, subject=f"{name} {text} {ENGINE_CONTEXT}", groups=("engine",), against=("vllm",))
        found.append(verify_cases([case], {}, Place(device=device)))
        print(f"{case.subject}: {len(found[-1].checks)} checks, {time.monotonic() - started:.0f} s", flush=True)
    return joined(found, "engine")


def several_ranks(names: tuple[str, ...], processes: int = 2) -> Verification:
    """What each of two processes found of its shard."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder, "report.json")
            launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
            words = ["-m", "kvplan", "verify", "--report", str(path), "--model", *name.split()]
            subprocess.run([*launch, *words], stdout=subprocess.DEVNULL, check=False)
            one = read_verification(path)
            path.unlink()
            found.append(replace(one, checks=tuple(replace(c, subject=f"{name}, {c.subject}") for c in one.checks)))
    return joined(found, "ranks")


def joined(found: list[Verification], name: str) -> Verification:
    """Several verifications as one."""
    return replace(
        found[0],
        request={"set": name},
        checks=tuple(check for entry in found for check in entry.checks),
        skipped=tuple(line for entry in found for line in entry.skipped),
        notes=tuple(line for entry in found for line in entry.notes),
        shares={},
    )


def main() -> None:
    """Run everything and write the reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", type=int, default=len(MODELS) + len(OTHER_FAMILIES), help="only the first ones")
    parser.add_argument("--gib", type=float, default=MOST_GIB, help="memory of an allocation that is not the 70B's")
    parser.add_argument("--parts", default="allocation,frontier,model_code")
    parser.add_argument("--code-seconds", type=float, default=300.0, help="no model's code begins after this")
    parser.add_argument("--engine-seconds", type=float, default=900.0, help="no engine is started after this")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = choose_device()
    place, count = Place(device=device), options.models
    cases = allocations(MODELS[:count], OTHER_FAMILIES[:count], int(options.gib * GIB))
    parts = {
        "allocation": lambda: verify_cases(list(cases), {"set": "allocation"}, place),
        "frontier": lambda: verify_cases(list(frontiers())[:count], {"set": "frontier"}, place),
        "model_code": lambda: model_code(device, CODE[:count], options.code_seconds),
        "engine": lambda: engine_starts(device, ENGINE[:count], options.engine_seconds),
        "ranks": lambda: several_ranks(RANKS[:count]),
    }
    for name in options.parts.split(","):
        run = parts[name]
        started = time.monotonic()
        found = run()
        path = options.out / f"{name}.json"
        path.write_text(render_success("verify", verify_fields(found), found.notes) + "\n", encoding="utf-8")
        failed = [check for check in found.checks if not check.passed]
        print(
            f"{name}: {len(found.checks)} checks, {len(failed)} failed, {time.monotonic() - started:.0f} s", flush=True
        )
        for check in failed[:20]:
            print(
                f"  {check.subject}: {check.what}: {check.predicted_bytes} predicted, {check.measured_bytes} measured"
            )
        for line in found.skipped[:40]:
            print(f"  not run: {line}")


if __name__ == "__main__":
    main()
