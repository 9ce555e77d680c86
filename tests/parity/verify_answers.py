"""Keeps what real engines answer to ``kvplan verify --against``, so that ordinary tests can play it again.

Needs kvplan with torch; the engines are found as ``kvplan verify`` finds them::

    KVPLAN_VLLM_PYTHON=... KVPLAN_LLAMACPP_PYTHON=... python tests/parity/verify_answers.py \
        --out tests/vectors/verify_answers.json
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
)


def record(engine: str, model: str, context: str) -> dict[str, Any]:
    """One row: the answers in order, with the one line of the log that counts."""
    answers = []

    def listening(question: engine_process.Question) -> engine_process.Answer:
        answer = engine_process.ask(question)
        lines = [line for line in answer.log.splitlines() if "KV cache size" in line]
        answers.append({"body": answer.body, "log": lines})
        return answer

    with mock.patch(f"kvplan.runtime.verify.against.{engine}.ask", listening):
        verify_engine(kvplan.size(model, context), engine)
    return {"engine": engine, "model": model, "context": context, "answers": answers}


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    head = {"date": datetime.date.today().isoformat(), "how": "tests/parity/verify_answers.py, on a CPU"}
    rows = ",\n".join(json.dumps(record(*case)) for case in CASES)
    arguments.out.write_text(json.dumps(head)[:-1] + ',\n"rows": [\n' + rows + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
