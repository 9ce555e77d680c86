"""Runs the cases of ``tests/vectors/size.yaml`` on the packaged specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import kvplan

CASES = yaml.safe_load((Path(__file__).parent.parent / "vectors" / "size.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['model']}-{case['ctx']}-{case.get('options', '')}")
def test_the_size_is_the_published_or_measured_one(case: dict[str, Any]) -> None:
    result = kvplan.size(case["model"], case["ctx"], **case.get("options", {}))
    assert {name: getattr(result, name) for name in case["expect"]} == case["expect"]
    assert case["derivation"]
    assert case["source"]
