"""quanto and hqq through transformers' QuantizedCache, asked again: their answers are those of the stored vectors.

``KVPLAN_QUANTO_PYTHON`` names an interpreter with the versions below; its environment need not be kvplan's. Whether
kvplan stores as many bytes and errs as little is for ``tests/runtime/test_quantized_cache_vectors.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
VECTORS = TESTS / "vectors" / "quantized_caches_5.23.json"
RELEASES = {"transformers": "5.23.0", "optimum-quanto": "0.2.7", "hqq": "0.2.8.post1"}
PYTHON = os.environ.get("KVPLAN_QUANTO_PYTHON", sys.executable)

pytestmark = pytest.mark.parity


def release(package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def test_quanto_and_hqq_still_answer_what_is_stored(tmp_path: Path) -> None:
    for package, expected in RELEASES.items():
        if (found := release(package)) != expected:
            pytest.skip(f"needs {package} {expected} (KVPLAN_QUANTO_PYTHON), found {found or 'none'}")
    out = tmp_path / "cases.json"
    command = [PYTHON, str(TESTS / "parity" / "quantized_caches.py"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    asked, stored = (json.loads(path.read_text(encoding="utf-8"))["cases"] for path in (out, VECTORS))
    assert len(asked) == len(stored) == 72
    for mine, theirs in zip(asked, stored):
        assert mine == {**theirs, "rmse": pytest.approx(theirs["rmse"], rel=1e-4), "first": mine["first"]}
        assert mine["first"] == pytest.approx(theirs["first"], rel=1e-4, abs=1e-5)
