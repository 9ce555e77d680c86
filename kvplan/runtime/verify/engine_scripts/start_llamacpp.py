"""Starts llama.cpp on a GGUF skeleton and writes down the lines that it logs of its caches.

A skeleton is a GGUF file with the attention shapes of a model in few layers. Only its header is given: llama.cpp's
loader names each tensor that it misses and the shape that it expects, so the tensors follow from the header.

Runs under the interpreter that has llama-cpp-python and gguf, and knows no kvplan: ``python start_llamacpp.py
QUESTION.json ANSWER.json``. A question without a ``header`` asks for versions alone.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
CACHE_LINE = re.compile(r"(llama_kv_cache|llama_memory_recurrent|llama_dsv4_comp_state): .*size = ")
MISSING = re.compile(r"missing tensor '([^']+)'|tensor '([^']+)' not found")
WRONG_SHAPE = re.compile(r"tensor '([^']+)' has wrong shape; expected ([\d, ]+), got")
BLOCK = re.compile(r"blk\.(\d+)\.(.*)")
DISTRIBUTIONS = ("llama_cpp_python", "gguf")
MOST_TRIES = 4000

BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
BREAKDOWN_RELEASE = "0.3.36"
"""llama.cpp's own account of its buffers (``src/llama-ext.h``), a C++ map, and the release that its layout is of."""

_logged: list[str] = []
_callback: Any = None


class Map(ctypes.Structure):
    """A ``std::map`` of libstdc++: comparator, header node (colour, root, first, last), number of nodes."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("compare", "colour", "root", "first", "last", "count")]


class Node(ctypes.Structure):
    """Its node: colour and links, then a type of buffer and the bytes of model, context and compute in it."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("colour", "parent", "left", "right")),
        *((name, ctypes.c_size_t) for name in ("buffer_type", "model", "context", "compute")),
    ]


def context_bytes(context: Any) -> int | None:
    """What the buffers of a context's caches take, exactly; None where this library's account cannot be read."""
    import llama_cpp

    library = llama_cpp.llama_cpp._lib
    known = sys.platform == "linux" and installed("llama_cpp_python") == BREAKDOWN_RELEASE
    if not known or not hasattr(library, BREAKDOWN):
        return None
    account = library[BREAKDOWN]
    account.restype, account.argtypes = Map, [ctypes.c_void_p]
    return sum(int(node.context) for node in nodes(account(context).root))


def nodes(address: int) -> Iterator[Node]:
    """The nodes below one, which may be missing."""
    if address:
        node = Node.from_address(address)
        yield node
        yield from nodes(node.left)
        yield from nodes(node.right)


def listen() -> None:
    """Direct llama.cpp's log here."""
    global _callback  # ctypes keeps no reference
    import llama_cpp

    def keep(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        _logged.append(text.decode("utf-8", "replace"))

    _callback = llama_cpp.llama_log_callback(keep)
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def logged_lines() -> list[str]:
    """What llama.cpp said since the last call; it writes some lines in pieces."""
    lines = "".join(_logged).splitlines()
    _logged.clear()
    return lines


def write_skeleton(arch: str, header: dict[str, Any], optional_tensors: Iterable[str], path: Path) -> None:
    """The GGUF file of a header, with the tensors that the loader asks for. Raises RuntimeError with its words."""
    shapes = {name: [1] for name in optional_tensors}
    for _ in range(MOST_TRIES):
        write_file(arch, header, shapes, path)
        problem = load_problem(path)
        if not problem:
            return
        if wrong := WRONG_SHAPE.search(problem):
            shapes[wrong[1]] = [int(size) for size in wrong[2].split(",")]
        elif missing := MISSING.search(problem):
            name = missing[1] or missing[2]
            shapes[name] = shape_in_another_block(name, shapes)
        else:
            raise RuntimeError(problem)
    raise RuntimeError("the loader asks for ever more tensors")


def shape_in_another_block(name: str, shapes: dict[str, list[int]]) -> list[int]:
    """The shape of the same tensor in another block: a good guess, which the loader corrects."""
    block = BLOCK.fullmatch(name)
    if block is None:
        return [1]
    alike = [shapes[other] for index in range(int(block[1])) if (other := f"blk.{index}.{block[2]}") in shapes]
    return alike[-1] if alike else [1]


def write_file(arch: str, header: dict[str, Any], shapes: dict[str, list[int]], path: Path) -> None:
    """A GGUF file with a header and with tensors of zeros, which take no room on most disks."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, arch)
    for key, value in {"context_length": 65536, "vocab_size": 64, **header}.items():
        add(writer, f"{arch}.{key}", value)
    writer.add_tokenizer_model("no_vocab")
    data_bytes = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        writer.add_tensor_info(name, list(reversed(shape)), numpy.dtype(numpy.float32), size)
        data_bytes += padded(size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(padded(path.stat().st_size) + data_bytes)


def padded(size: int) -> int:
    """Up to GGUF's default alignment of 32 bytes."""
    return -(-size // 32) * 32


def add(writer: Any, key: str, value: Any) -> None:
    """One key of the header, in the type that llama.cpp reads."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def load(path: Path) -> Any:
    """The model of a file, on the CPU; None where it does not load."""
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mtp = True
    return llama_cpp.llama_model_load_from_file(str(path).encode(), params)


def load_problem(path: Path) -> str:
    """What the loader says against a file; nothing where it loads."""
    import llama_cpp

    logged_lines()
    model = load(path)
    lines = logged_lines()
    if model:
        llama_cpp.llama_model_free(model)
        return ""
    return "\n".join(line for line in lines if "error" in line) or "\n".join(lines[-1:]) or "no word"


def run_options(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The cache lines of one context, or the last words of llama.cpp where it makes none."""
    import llama_cpp

    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options["sequences"] * options["context"]
    params.n_seq_max = options["sequences"]
    params.n_ubatch = options.get("ubatch", 512)
    params.type_k, params.type_v = TYPES[options["type_k"]], TYPES[options["type_v"]]
    params.swa_full = options.get("swa_full", False)
    params.kv_unified = options.get("unified", False)
    params.flash_attn_type = FLASH_ATTENTION[options.get("flash_attention", "auto")]
    params.n_rs_seq = options.get("speculative", 0)
    params.ctx_type = llama_cpp.LLAMA_CONTEXT_TYPE_MTP if options.get("draft") else 0
    logged_lines()
    context = llama_cpp.llama_init_from_model(model, params)
    lines = logged_lines()
    if not context:
        return {"error": lines[-1] if lines else "no word"}
    size = context_bytes(context)
    llama_cpp.llama_free(context)
    return {
        "lines": [line for line in lines if CACHE_LINE.match(line) and "buffer size" not in line],
        "context_bytes": size,
    }


def start(question: dict[str, Any]) -> dict[str, Any]:
    """Write the skeleton, load it, and make one context."""
    import llama_cpp

    listen()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "skeleton.gguf"
        try:
            write_skeleton(question["arch"], question["header"], question["optional_tensors"], path)
        except RuntimeError as error:
            return {"refused": str(error)}
        model = load(path)
        answer = run_options(model, question["options"])
        llama_cpp.llama_model_free(model)
    return answer


def installed(name: str) -> str | None:
    """The version of a distribution, if it is there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Read the question, write the answer."""
    question = json.loads(Path(sys.argv[1]).read_text())
    answer: dict[str, Any] = {name: installed(name) for name in DISTRIBUTIONS}
    if "header" in question and all(answer.values()):
        answer |= start(question)
    Path(sys.argv[2]).write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
