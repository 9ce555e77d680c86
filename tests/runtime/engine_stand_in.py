"""A stand-in for an engine's interpreter, a program of its own that plays again what a real engine answered."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import kvplan
from kvplan.core.model import Layer
from kvplan.core.request import SizeResult
from kvplan.core.verification import Check
from kvplan.runtime.verify.engines import verify_engine
from kvplan.runtime.verify.findings import Findings

VECTORS = Path(__file__).parent.parent / "vectors" / "verify_answers.json"
ROWS = json.loads(VECTORS.read_text(encoding="utf-8"))["rows"]
STAND_IN = """#!{python}
import json, sys
question = json.load(open(sys.argv[2]))
json.dump(question, open({asked!r}, "w"))
answer = json.load(open({answers!r}))["model" in question or "header" in question]
print("\\n".join(answer["log"]))
json.dump(answer["body"], open(sys.argv[3], "w"))
"""

Answers = list[dict[str, Any]]


def program(folder: Path, text: str) -> str:
    path = folder / "python"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def stand_in(folder: Path, answers: Answers) -> str:
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    paths = {"asked": str(folder / "asked.json"), "answers": str(folder / "answers.json")}
    return program(folder, STAND_IN.format(python=sys.executable, **paths))


def answers_of(engine: str, model: str) -> Answers:
    found: Answers = next(row["answers"] for row in ROWS if (row["engine"], row["model"]) == (engine, model))
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def played(folder: Path, engine: str, model: str, result: SizeResult | None = None) -> Findings:
    return verify_engine(result or kvplan.size(model, "4k"), engine, stand_in(folder, answers_of(engine, model)))


def failed(checks: tuple[Check, ...]) -> list[str]:
    return [check.what for check in checks if not check.passed]


def with_layers(result: SizeResult, layers: tuple[Layer, ...]) -> SizeResult:
    architecture = replace(result.model.architecture, layers=layers)
    return replace(result, model=replace(result.model, architecture=architecture))


def with_settings(model: str, engine: str, **settings: int) -> SizeResult:
    result = kvplan.size(model, "4k", engine=engine)
    return replace(result, request=replace(result.request, settings=replace(result.request.settings, **settings)))


def asked_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    return found
