"""kvpress methods through kvplan's protocol: one that drops nothing is the baseline, the same method is the same.

Needs kvpress 0.5.5 beside a transformers that kvplan's caches run on (``pip install --no-deps kvpress==0.5.5``);
``KVPLAN_PRESS_PYTHON`` names its interpreter.
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
PYTHON = os.environ.get("KVPLAN_PRESS_PYTHON", sys.executable)
PROBE = """
import json, sys, torch
from random import Random
torch.set_num_threads(1)
from kvplan.core.errors import KvplanError
from kvplan.runtime.demo.data import passage
from kvplan.runtime.evaluate.harness import load_model
from kvplan.runtime.evaluate.methods import Method, parse_method
from kvplan.runtime.evaluate.press import parse_press

handle = load_model(sys.argv[1], device="cpu")
ids = handle.rows([handle.encode(passage(Random(0), 500), start=True)[:500]])

def found(method):
    cache = handle.new_cache(method)
    handle.prefill(ids[:, :400], cache)
    held = cache.stored_bytes
    log_probs = torch.cat(list(handle.score_suffix(cache, ids[:, 400:-1], 16)), dim=1)
    kld = (exact.exp() * (exact - log_probs)).sum(-1).mean() if exact is not None else torch.zeros(())
    seen = cache.layers[0].get_seq_length()
    return log_probs, {"text": method.text, "kld": float(kld), "held": held, "seen": seen}

exact = None
exact, baseline = found(Method())
answers = {"baseline": baseline}
for word in ("KnormPress:0.0", "knorm:0.5", "SnapKVPress:0.5,window_size=16", "StreamingLLM:0.5", "observed_attention"):
    answers[word] = found(parse_press(word))[1]
answers["snapkv:keep=0.5,window=16"] = found(parse_method("snapkv:keep=0.5,window=16"))[1]
errors = {}
for word in ("SnapKVPres", "snapkv:0.5,colour=1", "snapkv:1,2"):
    try:
        parse_press(word)
    except KvplanError as error:
        errors[word] = [type(error).__name__, error.message, error.hint]
print(json.dumps({"answers": answers, "errors": errors}))
"""

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Figures of each method on the demo model, and how bad words are refused."""
    check = "import kvpress; from transformers.cache_utils import LinearAttentionLayer"
    if subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode:
        pytest.skip("needs kvpress beside transformers 5.23 (KVPLAN_PRESS_PYTHON)")
    command = [PYTHON, "-c", PROBE, str(ROOT / "kvplan" / "runtime" / "demo" / "model")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_a_press_that_drops_nothing_is_the_baseline(found: dict[str, Any]) -> None:
    answers = found["answers"]
    assert answers["KnormPress:0.0"]["kld"] == pytest.approx(0, abs=1e-9)
    assert answers["KnormPress:0.0"]["held"] == answers["baseline"]["held"]


def test_half_of_the_rows_are_gone_and_all_positions_are_kept(found: dict[str, Any]) -> None:
    answers = found["answers"]
    for word in ("knorm:0.5", "SnapKVPress:0.5,window_size=16", "StreamingLLM:0.5", "observed_attention"):
        assert answers[word]["held"] * 2 == answers["baseline"]["held"]
        assert answers[word]["seen"] == 499
        assert answers[word]["kld"] > 1e-3


def test_kvpress_snapkv_and_kvplans_hold_the_same_and_lose_alike(found: dict[str, Any]) -> None:
    theirs, ours = (found["answers"][name] for name in ("SnapKVPress:0.5,window_size=16", "snapkv:keep=0.5,window=16"))
    assert theirs["held"] == ours["held"]
    assert theirs["kld"] == pytest.approx(ours["kld"], rel=0.5)  # kvplan's goes on dropping while it decodes


def test_words_name_the_press_with_its_options(found: dict[str, Any]) -> None:
    texts = {word: answer["text"] for word, answer in found["answers"].items()}
    assert texts["knorm:0.5"] == "press:KnormPress:compression_ratio=0.5"
    assert texts["observed_attention"] == "press:ObservedAttentionPress:compression_ratio=0.5"
    assert texts["SnapKVPress:0.5,window_size=16"] == "press:SnapKVPress:compression_ratio=0.5,window_size=16"


def test_bad_words_are_refused_with_what_is_near(found: dict[str, Any]) -> None:
    errors = found["errors"]
    assert errors["SnapKVPres"][0] == "UnknownNameError"
    assert "SnapKVPress" in errors["SnapKVPres"][2]
    assert "colour" in errors["snapkv:0.5,colour=1"][1]
    assert "two values without a name" in errors["snapkv:1,2"][1]
