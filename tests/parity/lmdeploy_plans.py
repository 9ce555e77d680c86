"""What LMDeploy's PyTorch engine plans for real configs: its own config builders, block plan, slots and window blocks.

Run with torch (CPU), transformers and the unpacked wheel of lmdeploy 0.18.0; nothing is allocated (meta device)::

    python tests/parity/lmdeploy_plans.py FOLDER_WITH_lmdeploy tests/assets/configs tests/vectors/lmdeploy_0.18.json

Modules of the package that plan nothing (models, kernels, servers) and third-party packages that it imports on the way
are replaced by mocks; the device is taken for one with bf16 and FlashMLA, as from SM 9.0 on.
"""

from __future__ import annotations

import importlib
import json
import sys
from copy import deepcopy
from datetime import date
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

REAL = (
    *("messages", "utils", "pytorch.config", "pytorch.consts", "pytorch.envs", "pytorch.block"),
    *("pytorch.backends.cache", "pytorch.backends.default.cache", "pytorch.models.module_map"),
    *("pytorch.engine.executor.base", "pytorch.paging.block_manager.base_block_manager"),
    *("pytorch.paging.block_manager.default_block_manager", "pytorch.paging.block_manager.window_block_manager"),
)
REAL_FOLDERS = ("pytorch.configurations", "pytorch.engine.cache_engine")
PACKAGES = (
    *("", "pytorch", "pytorch.engine", "pytorch.engine.cache_engine", "pytorch.engine.executor", "pytorch.backends"),
    *("pytorch.backends.default", "pytorch.models", "pytorch.paging", "pytorch.paging.block_manager"),
)
ABSENT = ("mmengine", "ray", "triton", "fire", "peft", "partial_json_parser")
TENSOR_PARALLEL = (1, 2, 8)
POLICIES = ("NONE", "INT8", "INT4", "FP8", "TURBO_QUANT")
PROMPTS = (100, 4096, 4097, 8192, 9000, 20000, 33000)
WINDOWS = (512, 4096, 2047)
CHUNK = 8192


class Mocks:
    """Finder of the modules that the plan does not need."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """A mock for absent packages and for all of lmdeploy that is not real."""
        head, _, rest = name.partition(".")
        real = rest in REAL or any(rest.startswith(folder) for folder in REAL_FOLDERS)
        if head in ABSENT or (head == "lmdeploy" and rest and not real):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The mock."""
        module = MagicMock(name=spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs."""


class Backend:
    """LMDeploy's CUDA backend as far as shapes go (``backends/cuda/op_backend.py``)."""

    @staticmethod
    def get_k_block_shape(block_size: int, num_heads: int, head_size: int, dtype: object) -> tuple[int, int, int]:
        """A block of keys."""
        return (block_size, num_heads, head_size)

    get_v_block_shape = get_k_block_shape

    @staticmethod
    def get_cache_backend() -> Any:
        """The default layouts."""
        return load("pytorch.backends.default.cache").DefaultCacheBackend


def load(name: str) -> Any:
    """A module of lmdeploy."""
    return importlib.import_module(f"lmdeploy.{name}")


def prepare(folder: str) -> None:
    """Make the real modules importable, on a device with bf16 and FlashMLA."""
    for name in PACKAGES:
        full = f"lmdeploy.{name}".rstrip(".")
        package = ModuleType(full)
        package.__path__ = [f"{folder}/{full.replace('.', '/')}"]
        sys.modules[full] = package
    sys.meta_path.insert(0, Mocks())
    sys.modules["lmdeploy.pytorch.backends"].get_backend = lambda *arguments: Backend
    load("utils").is_bf16_supported = lambda *arguments: True
    configurations = Path(folder, "lmdeploy/pytorch/configurations")
    sys.modules.pop("lmdeploy.pytorch.configurations", None)
    load("pytorch.configurations")
    for path in configurations.glob("*.py"):
        module = load(f"pytorch.configurations.{path.stem}") if path.stem != "__init__" else None
        if hasattr(module, "flash_mla_available"):
            module.flash_mla_available = lambda: True


def plan_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of one config: what a rank plans for each policy and tensor-parallel size, or why there is no plan."""
    from transformers import AutoConfig

    values = json.loads(path.read_text())
    names = values.get("architectures") or []
    if not any(name in load("pytorch.models.module_map").MODULE_MAP for name in names):
        return [{"config": path.stem, "error": "no such architecture"}]
    rows = []
    for tp in TENSOR_PARALLEL:
        for policy in POLICIES if tp == 1 else POLICIES[:1]:
            row = {"config": path.stem, "tp": tp, "policy": policy.lower()}
            try:
                hf_config = AutoConfig.for_model(**deepcopy(values))
                for key in values.keys() - vars(hf_config).keys():  # keys that newer transformers drop
                    setattr(hf_config, key, values[key])
                rows.append({**row, **plan(hf_config, tp, policy)})
            except Exception as error:
                rows.append({**row, "error": f"{type(error).__name__}: {error}".splitlines()[0][:160]})
    return rows


def plan(hf_config: Any, tp: int, policy: str) -> dict[str, Any]:
    """Bytes of a block and of a state slot on one rank, with the block size and window that the engine settles on."""
    config, schema = load("pytorch.config"), load("pytorch.engine.cache_engine.schema")
    quant_policy = getattr(load("messages").QuantPolicy, policy)
    model = config.ModelConfig.from_hf_config(hf_config, None, dist_config=config.DistConfig(tp=tp))
    if model.mla_index_topk is not None and policy == "FP8":  # engine/executor/__init__.py
        model.mla_kv_cache_dtype, quant_policy = "fp8_ds_mla", load("messages").QuantPolicy.NONE
    cache = config.CacheConfig(
        max_batches=128, block_size=64, num_cpu_blocks=0, num_gpu_blocks=0, quant_policy=quant_policy
    )
    executor = load("pytorch.engine.executor.base").ExecutorBase
    executor._adjust_block_size(SimpleNamespace(model_config=model, cache_config=cache))

    def index_requests(context: Any) -> tuple[Any, ...]:
        if model.mla_index_topk is None:
            return ()
        shape = load("pytorch.consts").dsa_packed_indexer_k_cache_shape(
            cache.kernel_block_size, hf_config.index_head_dim
        )
        dtype = sys.modules["torch"].uint8  # backends/cuda/nsa.py get_block_cache_requests, one for each indexer
        one = schema.BlockCacheRequest(name="index", shape=shape, dtype=dtype, per_row_contiguous=True)
        types = getattr(hf_config, "indexer_types", None) or ["full"] * model.num_layers
        return (one,) * sum(entry != "shared" for entry in types)  # models/glm_moe_dsa.py _build_indexer

    blocks = load("pytorch.engine.cache_engine.plan").build_block_cache_plan(model, cache, tp, index_requests)
    states = load("pytorch.engine.cache_engine.state").StateCacheEngine
    return {
        "num_layers": model.num_layers,
        "window": model.sliding_window,
        "block_tokens": cache.block_size,
        "bytes_per_block": blocks.logical_block_nbytes,
        "slot_bytes": states.get_state_slot_nbytes(model.states_shapes, model.state_cache_specs)
        if model.states_shapes
        else 0,
    }


def window_rows() -> list[dict[str, int]]:
    """The most blocks that a sequence holds while its prompt is read in chunks and the first token is made."""
    manager_class = load("pytorch.paging.block_manager.window_block_manager").WindowBlockManager
    blocks = load("pytorch.block").LogicalTokenBlocks
    rows = []
    for window in WINDOWS:
        for prompt in PROMPTS:
            manager = manager_class(num_gpu_blocks=4096, num_cpu_blocks=0, window_size=window)
            sequence = SimpleNamespace(
                num_history_ids=0, num_all_ids=prompt, block_size=64, num_ignored_history=0, logical_blocks=blocks()
            )
            most = 0
            for end in (*range(CHUNK, prompt, CHUNK), prompt, prompt + 1):
                sequence.num_all_ids = max(prompt, end)
                sequence.kv_token_limit = end
                manager.allocate_msg(sequence)
                most = max(most, len(sequence.logical_blocks))
                sequence.num_history_ids = end
            rows.append({"window": window, "prompt": prompt, "chunk": CHUNK, "blocks": most})
    return rows


def main(folder: str, configs: str, written: str) -> None:
    """Write the vectors."""
    prepare(folder)
    rows = [row for path in sorted(Path(configs).glob("*.json")) for row in plan_rows(path)]
    source = {"engine": "lmdeploy 0.18.0", "backend": "pytorch", "date": date.today().isoformat()}
    parts = {"source": [source], "plans": rows, "windows": window_rows()}
    text = ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in entries) + "\n]" for name, entries in parts.items()
    )
    Path(written).write_text(f"{{{text}}}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
