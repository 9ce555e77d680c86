"""SGLang's own code, asked again: its answers are those that are stored (``sglang_oracle.py``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
VECTORS = TESTS / "vectors" / "sglang_0.5.23.json"
PYTHON = os.environ.get("KVPLAN_SGLANG_PYTHON", sys.executable)
"""An interpreter that has sglang 0.5.23; its environment need not be kvplan's."""


def _release() -> str | None:
    code = "import importlib.metadata as m; print(m.version('sglang'))"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


@pytest.mark.parity
def test_sglang_still_answers_what_is_stored(tmp_path: Path) -> None:
    stored = json.loads(VECTORS.read_text())
    release = _release()
    if release is None or f"sglang {release}" != stored["engine"]:
        pytest.skip(f"needs {stored['engine']} (KVPLAN_SGLANG_PYTHON), found {release}")
    out = tmp_path / "rows.json"
    script, configs = TESTS / "parity" / "sglang_oracle.py", TESTS / "assets" / "configs"
    command = [PYTHON, str(script), "--configs", str(configs), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    assert json.loads(out.read_text())["rows"] == stored["rows"]
