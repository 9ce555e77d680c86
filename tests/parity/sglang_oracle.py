"""What SGLang 0.5.23's own code makes of a config: backend, page size, pool sizes, and the tensors of its pools.

For each case SGLang resolves a ServerArgs (all of its argument hooks), reads its ModelConfig, solves the pools from a
memory budget (``KVCacheConfigurator``), and builds the pools' tensors on torch's meta device; their bytes are summed.
Nothing of it runs on a GPU: ``sglang_stand_in.py`` says what is replaced.

    python tests/parity/sglang_oracle.py --configs tests/assets/configs --out tests/vectors/sglang_0.5.23.json

Needs sglang 0.5.23 (``pip install --no-deps``), torch 2.13, transformers 5.19 and their pure-Python dependencies.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "kvplan" / "runtime" / "verify" / "engine_scripts"))

from sglang_cases import CASES
from sglang_stand_in import install, use_gpu
from start_sglang import tensor_bytes

ARGUMENTS = {
    "page_size": "page_size",
    "attention_backend": "attention_backend",
    "kv_cache_dtype": "kv_cache_dtype",
    "swa_full_tokens_ratio": "swa_full_tokens_ratio",
    "disable_hybrid_swa_memory": "disable_hybrid_swa_memory",
    "disable_radix_cache": "disable_radix_cache",
    "max_running_requests": "max_running_requests",
    "chunked_prefill_size": "chunked_prefill_size",
    "mamba_ssm_dtype": "mamba_ssm_dtype",
    "mamba_full_memory_ratio": "mamba_full_memory_ratio",
    "mamba_radix_cache_strategy": "mamba_radix_cache_strategy",
    "dsa_prefill_backend": "dsa_prefill_backend",
    "dsa_decode_backend": "dsa_decode_backend",
    "tp": "tp_size",
    "pp": "pp_size",
    "dcp": "dcp_size",
    "max_total_tokens": "max_total_tokens",
    "speculative_num_steps": "speculative_num_steps",
    "speculative_num_draft_tokens": "speculative_num_draft_tokens",
}
"""Keys of a case, and the fields of ServerArgs that they fill."""

_TEXT_CLASSES = {
    "Gemma4ForConditionalGeneration": "Gemma4ForCausalLM",
    "Gemma4UnifiedForConditionalGeneration": "Gemma4ForCausalLM",
}
"""Multimodal classes whose windows are counted as in the text class (``models/gemma4_mm.py:314``)."""


def ask(case: dict[str, Any], config_file: Path) -> dict[str, Any]:
    """One case's answer: the resolved arguments, and what each pipeline rank allocates."""
    with tempfile.TemporaryDirectory() as folder, use_gpu(case["gpu"]):
        config = json.loads(config_file.read_text())
        if (config.get("quantization_config") or {}).get("quant_method") == "mxfp4":
            del config["quantization_config"]  # a method that SGLang registers on CUDA builds; weights size no pool
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return _ask(case, folder)


def ask_apart(case: dict[str, Any], config_file: Path) -> dict[str, Any]:
    """The answer from a forked process: SGLang's process-wide contexts serve one configuration."""
    reader, writer = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        try:
            writer.send(ask(case, config_file))
        except Exception as error:  # a refusal is an answer
            lines = str(error).splitlines() or [""]
            writer.send({"refused": f"{type(error).__name__}: {lines[0]}", "trace": traceback.format_exc()})

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    answer: dict[str, Any] = reader.recv()
    process.join()
    return answer


def _ask(case: dict[str, Any], folder: str) -> dict[str, Any]:
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.runtime_context import SpawnRanks, get_exec, get_schedule, publish
    from sglang.srt.server_args import ServerArgs

    fields = {ARGUMENTS[key]: value for key, value in case.items() if key in ARGUMENTS}
    if "draft_layers" in case:
        fields |= {"speculative_algorithm": "EAGLE", "speculative_eagle_topk": 1}
    args = ServerArgs(model_path=folder, device="cuda", skip_tokenizer_init=True, **fields)
    os.environ.pop("SGLANG_MAMBA_SSM_DTYPE", None)  # --mamba-ssm-dtype of the case before
    pp = case.get("pp", 1)
    ranks = []
    for rank in range(pp):
        tp = case.get("tp", 1)
        publish(args, role="scheduler", ranks=SpawnRanks(world_rank=rank * tp, dp_rank=None, gpu_id=0))
        config = ModelConfig.from_server_args(args)
        ranks.append(_configurator(args, config, rank, pp, case))
    resolved = {
        "attention_backend": get_exec().kernel.attention_backend,
        "page_size": get_schedule().page_size,
        "kv_cache_dtype": ranks[0].kv_cache_dtype_str,
        "chunked_prefill_size": get_schedule().chunked_prefill_size,
    }
    return {"resolved": resolved, **_sizes(case, ranks)}


def _configurator(args: Any, config: Any, rank: int, pp: int, case: dict[str, Any]) -> Any:
    """SGLang's own configurator for a pipeline rank of a model whose weights were never loaded."""
    import torch
    from sglang.srt.distributed.utils import get_pp_indices
    from sglang.srt.mem_cache import kv_cache_configurator as module
    from sglang.srt.mem_cache.kv_cache_dtype import configure_kv_cache_dtype
    from sglang.srt.model_executor.model_runner_components import layer_setup, load_model_utils
    from sglang.srt.runtime_context import get_model, get_schedule, get_spec
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    depth = max(config.num_hidden_layers, config.num_attention_layers)
    start, end = get_pp_indices(depth, rank, pp)
    model = _model_stub(config, start, end)
    info = layer_setup.resolve_layer_indices(model=model, model_config=config, is_draft_worker=False)
    asked = get_model().kv_cache_dtype
    word, dtype = configure_kv_cache_dtype(
        server_args_kv_cache_dtype=asked,
        model=SimpleNamespace(quant_config=_quant_config(config)),
        model_dtype=config.dtype,
        is_draft_worker=False,
        is_dflash=False,
        speculative_draft_attention_backend="",
    )
    _use_cuda_platform()
    algorithm = SpeculativeAlgorithm.from_string(get_spec().speculative_algorithm)
    return module.KVCacheConfigurator(
        device="meta",
        gpu_id=0,
        attn_dp_size=1,
        pp_size=pp,
        pp_group=SimpleNamespace(rank_in_group=rank),
        model=model,
        model_config=config,
        server_args=args,
        kv_cache_dtype=dtype,
        model_dtype=config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16,
        page_size=get_schedule().page_size,
        sliding_window_size=load_model_utils.resolve_sliding_window_size(model, config),
        spec_algorithm=algorithm,
        is_draft_worker=False,
        post_capture_kv_active=False,
        spec_aux_config=SimpleNamespace(
            eagle_draft_num_layers=case.get("draft_layers"),
            eagle_draft_swa_num_layers=case.get("draft_swa_layers"),
            dflash_draft_num_layers=None,
            dspark_num_stages=None,
            draft_model_config=None,
        ),
        is_hybrid_swa=config.is_hybrid_swa,
        is_hybrid_swa_compress=config.is_hybrid_swa_compress,
        use_mla_backend=config.attention_arch.name == "MLA",
        layer_info=info,
        forward_stream=None,
        req_to_token_pool=None,
        token_to_kv_pool_allocator=None,
        memory_pool_config=None,
        kv_cache_dtype_str=word or asked,
    )


def _use_cuda_platform() -> None:
    """The platform object that pool builders ask: a CUDA device without classes of its own."""
    platform = MagicMock(name="current_platform")
    for name in ("is_cpu", "is_out_of_tree", "is_cuda_alike", "is_npu"):
        getattr(platform, name).return_value = False
    platform.get_kv_pool_cls.return_value = None
    for name, entry in list(sys.modules.items()):
        if name.startswith("sglang.srt.mem_cache.") and hasattr(entry, "current_platform"):
            entry.current_platform = platform


def _model_stub(config: Any, start: int, end: int) -> Any:
    """The two things that sizing asks of the model object; the window is the class's own method where it has one."""
    model = SimpleNamespace(start_layer=start, end_layer=end)
    architecture = config.hf_config.architectures[0]
    window = _window_function(_TEXT_CLASSES.get(architecture, architecture))
    if window is not None:
        model.get_attention_sliding_window_size = lambda: window(config.hf_text_config)
    return model


def _window_function(architecture: str) -> Any:
    """``get_attention_sliding_window_size`` of the file that defines a class, without importing the model."""
    import sglang.srt

    folder = Path(sglang.srt.__path__[0]) / "models"
    name = "get_attention_sliding_window_size"
    for path in folder.glob("*.py"):
        text = path.read_text()
        if f"class {architecture}(" not in text or f"def {name}(self" not in text:
            continue
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name]
        if not functions:  # another file's: a model without a pool for windows
            return None
        scope: dict[str, Any] = {}
        exec(compile(ast.Module(body=functions, type_ignores=[]), str(path), "exec"), scope)
        return scope[name]
    return None


def _quant_config(config: Any) -> Any:
    """The quantization config's ``kv_cache_quant_algo`` as ModelOpt's own reader finds it."""
    from sglang.srt.layers.quantization import modelopt_quant

    found = getattr(config.hf_config, "quantization_config", None) or {}
    if not str(found.get("quant_method")).startswith("modelopt"):
        return None
    readers = {"FP8": "ModelOptFp8Config", "MIXED_PRECISION": "ModelOptMixedPrecisionConfig"}
    return getattr(modelopt_quant, readers.get(found["quant_algo"], "ModelOptFp4Config")).from_config(found)


def _sizes(case: dict[str, Any], ranks: list[Any]) -> dict[str, Any]:
    """The pools of every rank; the token count is the least of all ranks, as SGLang's all-reduce makes it."""
    from sglang.srt.model_executor.pool_configurator import create_memory_pool_configurator
    from sglang.srt.runtime_context import get_schedule

    budgets = []
    for kvc in ranks:
        rest = case["memory_bytes"] / (1 << 30)
        if kvc.mambaish_config is not None:
            rest = kvc._handle_max_mamba_cache(rest)
        budgets.append(int(rest * (1 << 30)))
    solved, answers = [create_memory_pool_configurator(kvc) for kvc in ranks], []
    with patch("torch.distributed.all_reduce"), patch.object(type(ranks[0]), "_apply_token_constraints", _capped):
        configs = [kvc.config_from_budget(budget) for kvc, budget in zip(ranks, budgets)]
    tokens = min(config.max_total_num_tokens for config in configs)
    for kvc, solver, config in zip(ranks, solved, configs):
        if config.max_total_num_tokens != tokens:
            config = solver.calculate_pool_sizes_from_max_tokens(tokens, get_schedule().page_size)
        config.max_running_requests = kvc.resolve_max_num_reqs(config.max_total_num_tokens)
        config = solver.finalize_with_max_running_requests(config)
        answers.append(_allocate(kvc, config))
    return {
        "max_total_num_tokens": tokens,
        "max_mamba_cache_size": get_schedule().max_mamba_cache_size if ranks[0].mambaish_config is not None else None,
        "ranks": answers,
    }


def _capped(self: Any, capacity: int) -> int:
    """``_apply_token_constraints`` without the all-reduce over pipeline ranks, which :func:`_sizes` does."""
    from sglang.srt.runtime_context import get_schedule

    limit = get_schedule().max_total_tokens
    return capacity if limit is None else min(capacity, limit)


def _allocate(kvc: Any, config: Any) -> dict[str, Any]:
    """The tensors of SGLang's own pools for these sizes."""
    from sglang.srt.configs.model_config import is_deepseek_dsa, is_deepseek_v4
    from sglang.srt.layers.quantization.fp4_kv_cache_quant_method import NVFP4KVCacheMethod
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    NVFP4KVCacheMethod.load_scales_from_model = lambda self, model: None  # no weights, no scales
    MHATokenToKVPool._init_kv_copy_and_warmup = lambda self: None  # copies slots on the device
    sizes = kvc._derive_pool_sizes(config=config)
    requests = kvc._build_req_to_token_pool(max_num_reqs=sizes.max_running_requests)
    pool = kvc._build_token_to_kv_pool(
        sizes=sizes,
        is_dsa_model=is_deepseek_dsa(kvc.model_config.hf_config),
        is_dsv4_model=is_deepseek_v4(kvc.model_config.hf_config),
        req_to_token_pool=requests,
    )
    states = getattr(requests, "mamba_pool", None)
    answer = {
        "full_tokens": sizes.full_max_total_num_tokens,
        "swa_tokens": sizes.swa_max_total_num_tokens,
        "max_running_requests": sizes.max_running_requests,
        "pool_bytes": tensor_bytes(pool, {id(requests), id(states)}),
        "state_bytes": tensor_bytes(states.mamba_cache, set()) if states is not None else 0,
    }
    sized = pool.get_kv_size_bytes() if hasattr(pool, "get_kv_size_bytes") and not hasattr(pool, "kv_pools") else None
    if isinstance(sized, tuple):
        answer["k_bytes"], answer["v_bytes"] = (int(size) for size in sized)
    return answer


def main() -> None:
    """Write the answers of all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--configs", type=Path, required=True, help="folder of NAME.json configs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="cases whose config contains this")
    options = parser.parse_args()
    install()
    logging.disable(logging.WARNING)
    import sglang
    import sglang.srt.mem_cache.kv_cache_configurator
    import sglang.srt.server_args

    rows = []
    for case in CASES:
        if options.only and options.only not in case["config"]:
            continue
        answer = ask_apart(case, options.configs / f"{case['config']}.json")
        trace = answer.pop("trace", None)
        if options.only and trace:
            print(trace, file=sys.stderr)
        rows.append({**case, **answer})
        print(json.dumps(rows[-1]), file=sys.stderr)
    document = {
        "engine": f"sglang {sglang.__version__}",
        "date": datetime.date.today().isoformat(),
        "how": "tests/parity/sglang_oracle.py: SGLang's own argument hooks, configurator and pools on the meta device",
        "rows": rows,
    }
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps({key: value for key, value in document.items() if key != "rows"})[:-1]
    options.out.write_text(f'{head}, "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
