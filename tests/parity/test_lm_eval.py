"""lm-evaluation-harness with kvplan's caches: uncompressed it finds what its own model finds, compressed it does not.

``KVPLAN_LM_EVAL_PYTHON`` names an interpreter with lm_eval; its environment need not be that of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("KVPLAN_LM_EVAL_PYTHON", sys.executable)

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the harness itself says, under each method."""
    probe = subprocess.run([PYTHON, "-c", "import lm_eval"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("needs lm_eval (KVPLAN_LM_EVAL_PYTHON)")
    script = ROOT / "tests" / "parity" / "lm_eval_answers.py"
    command = [PYTHON, str(script), "--model", str(ROOT / "kvplan" / "runtime" / "demo" / "model")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_an_uncompressed_cache_gives_the_harness_own_figures(found: dict[str, Any]) -> None:
    own, ours = found["answers"]["hf"], found["answers"]["none"]
    for (theirs, greedy), (value, also) in zip(own["loglikelihood"], ours["loglikelihood"]):
        assert value == pytest.approx(theirs, abs=1e-3)  # sums of fp32 in another order
        assert also == greedy
    assert ours["generate_until"] == own["generate_until"]
    assert ours["loglikelihood_rolling"] == pytest.approx(own["loglikelihood_rolling"], abs=1e-2)
    assert found["accuracy"]["none"] == found["accuracy"]["hf"]


def test_compression_shows_and_the_more_the_smaller(found: dict[str, Any]) -> None:
    exact = found["answers"]["none"]

    def distance(method: str) -> float:
        pairs = zip(found["answers"][method]["loglikelihood"], exact["loglikelihood"])
        return max(abs(value - right) for (value, _), (right, _) in pairs)

    assert 0 < distance("int8") < distance("kivi2") < distance("window:128;sinks=4")
    assert found["answers"]["int8"]["generate_until"] == exact["generate_until"]
    # the needle lies far before the window: it is gone
    lost = zip(found["answers"]["window:128;sinks=4"]["generate_until"], exact["generate_until"])
    assert all(said != right for said, right in lost)
