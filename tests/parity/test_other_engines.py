"""MLX-LM's, ExLlamaV3's and LMDeploy's own code, asked again: its answers are those that are stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CONFIGS = TESTS / "assets" / "configs"
SOME_CONFIGS = (
    "deepseek-ai__DeepSeek-V3.2",
    "google__gemma-3-1b-it",
    "meta-llama__Llama-4-Scout-17B-16E",
    "Qwen__Qwen3-Next-80B-A3B-Instruct",
)
MLX_PYTHON = os.environ.get("KVPLAN_MLX_PYTHON", sys.executable)
"""An interpreter that has mlx[cpu] and mlx-lm 0.32.2; its environment need not be kvplan's."""


def ask(python: str, script: str, *arguments: str | Path) -> None:
    command = [python, str(TESTS / "parity" / script), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=900)


def stored(name: str) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads((TESTS / "vectors" / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.parity
def test_mlx_lm_still_answers_what_is_stored(tmp_path: Path) -> None:
    code = "import importlib.metadata as m; print(m.version('mlx-lm'))"
    release = subprocess.run([MLX_PYTHON, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    if release != "0.32.2":
        pytest.skip(f"needs mlx-lm 0.32.2 (KVPLAN_MLX_PYTHON), found {release or 'none'}")
    for name in SOME_CONFIGS:
        (tmp_path / f"{name}.json").symlink_to(CONFIGS / f"{name}.json")
    out = tmp_path / "out" / "rows.json"
    out.parent.mkdir()
    ask(MLX_PYTHON, "mlx_caches.py", tmp_path, out)
    rows = [row for row in stored("mlx_0.32.json")["rows"] if row["config"] in SOME_CONFIGS]
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == rows


@pytest.mark.parity
@pytest.mark.parametrize(
    ("variable", "package", "script", "vectors", "keys"),
    [
        ("KVPLAN_EXLLAMAV3", "exllamav3", "exllamav3_caches.py", "exllamav3_1.6.json", ("rows",)),
        ("KVPLAN_LMDEPLOY", "lmdeploy", "lmdeploy_plans.py", "lmdeploy_0.18.json", ("plans", "windows")),
    ],
)
def test_an_unpacked_wheel_still_answers_what_is_stored(
    tmp_path: Path, variable: str, package: str, script: str, vectors: str, keys: tuple[str, ...]
) -> None:
    folder = Path(os.environ.get(variable, ""))
    if variable not in os.environ or not (folder / package).is_dir():
        pytest.skip(f"needs the unpacked wheel of {package} ({variable} names its folder)")
    pytest.importorskip("torch")
    out = tmp_path / "rows.json"
    configs = (CONFIGS,) if package == "lmdeploy" else ()
    ask(sys.executable, script, folder, *configs, out)
    answered = json.loads(out.read_text(encoding="utf-8"))
    for key in keys:
        assert answered[key] == stored(vectors)[key]
