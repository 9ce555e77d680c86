"""kvpress itself, asked again: the tokens that it keeps are those of the stored vectors.

``KVPLAN_KVPRESS_PYTHON`` names an interpreter with kvpress 0.5.5; its environment need not be kvplan's. Whether kvplan
keeps the same tokens is for ``tests/runtime/test_kvpress_vectors.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RELEASE = "0.5.5"
PYTHON = os.environ.get("KVPLAN_KVPRESS_PYTHON", sys.executable)

pytestmark = pytest.mark.parity


def _release() -> str | None:
    code = "import importlib.metadata as m; print(m.version('kvpress'))"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def test_kvpress_keeps_what_is_stored(tmp_path: Path) -> None:
    if (release := _release()) != RELEASE:
        pytest.skip(f"needs kvpress {RELEASE} (KVPLAN_KVPRESS_PYTHON), found {release}")
    out = tmp_path / "kvpress.json"
    command = [PYTHON, str(TESTS / "parity" / "kvpress_keep_sets.py"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    asked, stored = (json.loads(path.read_text()) for path in (out, TESTS / "vectors" / "kvpress_0.5.5.json"))
    assert len(asked["rows"]) >= 100
    assert asked["rows"] == stored["rows"]
