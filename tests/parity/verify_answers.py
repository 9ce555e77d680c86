"""Keeps what real engines answer to ``kvplan verify --against``, so that ordinary tests can play it again.

Needs kvplan with torch; the engines are found as ``kvplan verify`` finds them::

    KVPLAN_VLLM_PYTHON=... KVPLAN_LLAMACPP_PYTHON=... KVPLAN_SGLANG_PYTHON=... python tests/parity/verify_answers.py \
        --out tests/vectors/verify_answers.json

With ``--engine`` (again for several) only those engines are asked, and the other rows of the file stay as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any
from unittest import mock

import kvplan
from kvplan.runtime.verify import engine_process
from kvplan.runtime.verify.engines import verify_engine

CASES = (
    ("vllm", "llama-3.1-8b", "4k"),
    ("vllm", "gemma-3-27b", "4k"),
    ("vllm", "deepseek-v3", "4k"),
    ("vllm", "qwen3-next-80b-a3b", "4k"),
    ("llamacpp", "llama-3.1-8b", "4k"),
    ("llamacpp", "gemma-3-27b", "4k"),
    ("llamacpp", "deepseek-v3", "4k"),
    ("llamacpp", "qwen3-next-80b-a3b", "4k"),
    ("sglang", "llama-3.1-8b", "4k"),
    ("sglang", "llama-3.1-8b", "4k", "fp8_e4m3"),
    ("sglang", "gemma-3-27b", "4k"),
    ("sglang", "gpt-oss-20b", "4k"),
    ("sglang", "deepseek-v2-lite", "4k"),
    ("sglang", "deepseek-v2-lite", "4k", "fp8_e4m3"),
    ("sglang", "qwen3-next-80b-a3b", "4k"),
)
"""Engine, model, context, and the cache dtype where it is not ``auto``."""

LINES = ("KV cache size", "KV Cache is allocated", "Mamba Cache is allocated", "max_total_num_tokens=")
"""Words of the lines of a log that are kept."""


def record(engine: str, model: str, context: str, kv_dtype: str = "auto") -> dict[str, Any]:
    """One row: the answers in order, with the lines of the log that count."""
    answers = []

    def listening(question: engine_process.Question) -> engine_process.Answer:
        answer = engine_process.ask(question)
        lines = [line for line in answer.log.splitlines() if any(words in line for words in LINES)]
        answers.append({"body": answer.body, "log": lines})
        return answer

    with mock.patch(f"kvplan.runtime.verify.against.{engine}.ask", listening):
        verify_engine(kvplan.size(model, context, kv_dtype=kv_dtype), engine)
    stated = {} if kv_dtype == "auto" else {"kv_dtype": kv_dtype}
    return {"engine": engine, "model": model, "context": context, **stated, "answers": answers}


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", action="append", help="ask this engine alone")
    arguments = parser.parse_args()
    engines = arguments.engine or sorted({case[0] for case in CASES})
    kept = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"] if arguments.engine else []
    kept = [row for row in kept if row["engine"] not in engines]
    rows = [*kept, *(record(*case) for case in CASES if case[0] in engines)]
    head = {"date": datetime.date.today().isoformat(), "how": "tests/parity/verify_answers.py, on a CPU"}
    lines = ",\n".join(map(json.dumps, rows))
    arguments.out.write_text(json.dumps(head)[:-1] + ',\n"rows": [\n' + lines + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
