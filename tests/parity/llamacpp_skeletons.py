"""Starts llama.cpp on skeletons of models and keeps the lines that it logs of its caches.

A skeleton is a GGUF file with the attention shapes of a published model in few layers, and a tiny vocabulary,
feed-forward block and number of experts. Only its header is written here: llama.cpp's loader names each tensor that it
misses and the shape it expects, so the tensors follow from the header.

Run where llama-cpp-python and gguf are installed (kvplan is not needed):

    python tests/parity/llamacpp_skeletons.py --out tests/vectors/llamacpp_python_0.3.36.json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from llamacpp_header import OPTIONS, Skeleton
from llamacpp_shapes import SKELETONS

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
CACHE_LINE = re.compile(r"(llama_kv_cache|llama_memory_recurrent|llama_dsv4_comp_state): .*size = ")
MISSING = re.compile(r"missing tensor '([^']+)'|tensor '([^']+)' not found")
WRONG_SHAPE = re.compile(r"tensor '([^']+)' has wrong shape; expected ([\d, ]+), got")
NEXTN = llama_cpp.LLAMA_CONTEXT_TYPE_MTP
VERSION = llama_cpp.__version__

_logged: list[str] = []


@llama_cpp.llama_log_callback
def _keep(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    _logged.append(text.decode("utf-8", "replace"))


def logged_lines() -> list[str]:
    """What llama.cpp said since the last call; it writes some lines in pieces."""
    lines = "".join(_logged).splitlines()
    _logged.clear()
    return lines


def write_skeleton(skeleton: Skeleton, path: Path) -> None:
    """The GGUF file of a skeleton, with the tensors that the loader asks for."""
    shapes = {name: [1] for name in skeleton.optional_tensors}
    for _ in range(2000):
        _write(skeleton, shapes, path)
        if not (problem := _load_problem(path)):
            return
        if wrong := WRONG_SHAPE.search(problem):
            shapes[wrong[1]] = [int(size) for size in wrong[2].split(",")]
        elif missing := MISSING.search(problem):
            shapes[missing[1] or missing[2]] = [1]
        else:
            raise RuntimeError(f"{skeleton.name}: {problem}")
    raise RuntimeError(f"{skeleton.name}: the loader asks for ever more tensors")


def _write(skeleton: Skeleton, shapes: dict[str, list[int]], path: Path) -> None:
    writer = gguf.GGUFWriter(path, skeleton.arch)
    header = {"context_length": 65536, "vocab_size": 64, **skeleton.header}
    for key, value in header.items():
        _add(writer, f"{skeleton.arch}.{key}", value)
    writer.add_tokenizer_model("no_vocab")
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(list(reversed(shape)), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _load(path: Path) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mtp = True
    return llama_cpp.llama_model_load_from_file(str(path).encode(), params)


def _load_problem(path: Path) -> str:
    logged_lines()
    model = _load(path)
    lines = logged_lines()
    if model:
        llama_cpp.llama_model_free(model)
        return ""
    return "\n".join(line for line in lines if "error" in line)


def run_options(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The cache lines of one context, or the last words of llama.cpp where it makes none."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options["sequences"] * options["context"]
    params.n_seq_max = options["sequences"]
    params.n_ubatch = options.get("ubatch", 512)
    params.type_k, params.type_v = TYPES[options["type_k"]], TYPES[options["type_v"]]
    params.swa_full = options.get("swa_full", False)
    params.kv_unified = options.get("unified", False)
    params.flash_attn_type = FLASH_ATTENTION[options.get("flash_attention", "auto")]
    params.n_rs_seq = options.get("speculative", 0)
    params.ctx_type = NEXTN if options.get("draft") else 0
    logged_lines()
    context = llama_cpp.llama_init_from_model(model, params)
    lines = logged_lines()
    if not context:
        return {"error": lines[-1]}
    llama_cpp.llama_free(context)
    return {"lines": [line for line in lines if CACHE_LINE.match(line) and "buffer size" not in line]}


def run_skeleton(skeleton: Skeleton) -> dict[str, Any]:
    """What llama.cpp logs for a skeleton under all options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{skeleton.name}.gguf"
        write_skeleton(skeleton, path)
        model = _load(path)
        runs = [{"options": options, **run_options(model, options)} for options in (*OPTIONS, *skeleton.options)]
        llama_cpp.llama_model_free(model)
    return {
        "name": skeleton.name,
        "arch": skeleton.arch,
        "family": skeleton.family,
        "layers": skeleton.layers,
        "draft_layers": skeleton.draft_layers,
        "runs": runs,
    }


def start() -> None:
    """Direct llama.cpp's log here."""
    llama_cpp.llama_log_set(_keep, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def main() -> None:
    """Write the vectors of all skeletons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="the name of one skeleton")
    arguments = parser.parse_args()
    start()
    rows = [run_skeleton(skeleton) for skeleton in SKELETONS if arguments.only in (None, skeleton.name)]
    head = {"engine": "llama-cpp-python", "version": VERSION, "llama.cpp": "0.5.0", "device": "CPU"}
    body = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps(head)[:-1] + ',\n"rows": [\n' + body + "\n]}\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(f"{len(rows)} skeletons, {sum(len(row['runs']) for row in rows)} contexts")


if __name__ == "__main__":
    main()
