"""What SGLang's own hook makes of ``mem_fraction_static``, for a grid of devices and options.

    python tests/parity/sglang_fraction.py --sglang SITE_PACKAGES/sglang --out tests/vectors/sglang_0.5.23_fraction.json

Only ``arg_groups/memory_hook.py`` and ``generate_prefill_cuda_graph_batch_sizes`` run; what they import is stood in
for, so that no GPU and no other package is needed.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

DEVICES_MIB = (15360, 24564, 46068, 81559, 143771, 183359)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"tp": 8},
    {"latent": True},
    {"latent": True, "tp": 8, "attention_dp": 8},
    {"graphs": False},
    {"chunk_tokens": 16384},
    {"max_running_requests": 32},
    {"deepep": True, "tp": 8, "latent": True},
)
COLUMNS = ("memory_mib", "options", "mem_fraction_static")


class Stub(ModuleType):
    """A module that has every name; those not set are functions that do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def stand_in(name: str, **members: Any) -> None:
    """Put a stub into ``sys.modules``, with its parents."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        sys.modules.setdefault(path, Stub(path))
        sys.modules[path].__path__ = []
    for key, value in members.items():
        setattr(sys.modules[name], key, value)


def one_function(path: Path, name: str) -> Any:
    """A function without free names, out of a file that cannot be imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    space: dict[str, Any] = {}
    exec(compile(ast.Module([found], []), str(path), "exec"), space)
    return space[name]


def declare(args: SimpleNamespace, who: str, **values: Any) -> None:
    """Resolve arguments."""
    for name, value in values.items():
        setattr(args, name, value)


def load_hook(sglang: Path) -> Any:
    """``memory_hook`` with its imports stood in for."""
    backend = SimpleNamespace(BREAKABLE="breakable", DISABLED="disabled", FULL="full")
    sizes = one_function(sglang / "srt/arg_groups/cuda_graph_hook.py", "generate_prefill_cuda_graph_batch_sizes")
    stand_in(
        "sglang.srt.arg_groups.overrides",
        declare_resolution=declare,
        resolved_view=lambda args: args,
        resolving_view=lambda args: args,
        use_mla_backend=lambda args: args.latent,
        post_capture_kv_sizing_planned=lambda args: False,
        model_config_of=lambda args: SimpleNamespace(is_multimodal=False),
    )
    unset = SimpleNamespace(is_set=lambda: True)
    stand_in("sglang.srt.environ", envs=SimpleNamespace(SGLANG_SYMM_MEM_PREALLOC_GB_SIZE=unset))
    phase = SimpleNamespace(PREFILL="prefill", DECODE="decode")
    stand_in("sglang.srt.model_executor.cuda_graph_config", Backend=backend, Phase=phase)
    stand_in(
        "sglang.srt.runtime_context",
        attn_dp_enabled_of=lambda args: args.attn_dp_size > 1,
        get_platform=lambda: SimpleNamespace(is_xpu=False),
    )
    stand_in("sglang.srt.utils.common", get_device_memory_capacity=lambda device: float(device))
    stand_in(
        "sglang.srt.arg_groups.cuda_graph_hook",
        generate_prefill_cuda_graph_batch_sizes=sizes,
        generate_decode_cuda_graph_batch_sizes=lambda args, largest: [largest],
    )
    stand_in("sglang.srt.arg_groups.model_overrides.qwen3_vl")
    path = sglang / "srt/arg_groups/memory_hook.py"
    space: dict[str, Any] = {"__name__": "memory_hook"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), space)
    return space["handle_gpu_memory_settings"]


def server_args(memory_mib: int, options: dict[str, Any]) -> SimpleNamespace:
    """The arguments that the hook reads."""
    graphs = options.get("graphs", True)
    backends = ("full", "breakable") if graphs else ("disabled", "disabled")
    phases = [SimpleNamespace(backend=backend, max_bs=None, bs=None) for backend in backends]
    return SimpleNamespace(
        device=memory_mib,
        cuda_graph_config=SimpleNamespace(decode=phases[0], prefill=phases[1]),
        chunked_prefill_size=options.get("chunk_tokens"),
        tp_size=options.get("tp", 1),
        pp_size=1,
        attn_dp_size=options.get("attention_dp", 1),
        max_running_requests=options.get("max_running_requests"),
        latent=options.get("latent", False),
        moe_a2a_backend="deepep" if options.get("deepep") else "none",
        **dict.fromkeys(("max_total_tokens", "mem_fraction_static", "speculative_num_draft_tokens")),
        **dict.fromkeys(("language_only", "language_model_only", "enable_symm_mem"), False),
        model_path="",
        disaggregation_mode="null",
        _cuda_graph_config_locked=(),
    )


def main() -> None:
    """Write the vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sglang", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    hook = load_hook(given.sglang)
    rows = []
    for memory_mib, options in itertools.product(DEVICES_MIB, OPTIONS):
        args = server_args(memory_mib, options)
        hook(args)
        rows.append([memory_mib, options, str(args.mem_fraction_static)])
    head = {"engine": "sglang 0.5.23", "date": "2026-11-24", "how": __doc__.split("\n")[0], "columns": COLUMNS}
    lines = [f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    body = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    given.out.write_text("{\n" + "".join(lines) + f' "rows": [\n{body}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
